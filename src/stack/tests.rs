use std::collections::{HashMap, HashSet};
use std::sync::mpsc;

use super::sys::fail::{self, Call};
use super::*;

const FOREVER: usize = usize::MAX;

fn write(address: std::ptr::NonNull<u8>, byte: u8) {
    // SAFETY: tests pass addresses of stacks they hold, or die of it on purpose in a child.
    unsafe { address.write_volatile(byte) };
}

fn read(address: std::ptr::NonNull<u8>) -> u8 {
    // SAFETY: as for `write`.
    unsafe { address.read_volatile() }
}

fn below(address: std::ptr::NonNull<u8>, bytes: usize) -> std::ptr::NonNull<u8> {
    address.map_addr(|a| (a.get() - bytes).try_into().unwrap())
}

enum Child {
    Returned(i32),
    Killed(i32),
}

/// Runs `body` in a forked child: limits, faults and process-wide counts stay there.
fn in_child(body: impl FnOnce() -> i32) -> Child {
    // A lock that another thread holds during fork stays locked in the child.
    guard::warm_up();
    // SAFETY: the child runs `body`, which allocates at most (glibc's heap survives fork), and
    // leaves without unwinding or running the harness.
    unsafe {
        let child = libc::fork();
        assert!(child >= 0);
        if child == 0 {
            libc::alarm(120);
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(101);
            libc::_exit(code);
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        if libc::WIFSIGNALED(status) {
            Child::Killed(libc::WTERMSIG(status))
        } else {
            Child::Returned(libc::WEXITSTATUS(status))
        }
    }
}

#[track_caller]
fn succeeds_in_child(body: impl FnOnce()) {
    let end = in_child(|| {
        body();
        0
    });
    match end {
        Child::Returned(code) => assert_eq!(code, 0, "the child failed"),
        Child::Killed(signal) => panic!("the child died of signal {signal}"),
    }
}

fn dies_of_touching(address: std::ptr::NonNull<u8>) -> bool {
    let end = in_child(|| {
        write(address, 1);
        0
    });
    matches!(end, Child::Killed(libc::SIGSEGV))
}

fn take_all(pool: &StackPool, cache: &mut StackCache, class: StackClass, n: usize) -> Vec<Stack> {
    (0..n).map(|_| cache.take(pool, class).unwrap()).collect()
}

fn put_all(pool: &StackPool, cache: &mut StackCache, stacks: Vec<Stack>) {
    for stack in stacks {
        cache.put(pool, stack);
    }
}

#[test]
fn sizes_round_up_to_a_class() {
    use StackClass::*;
    let expected = [
        (0, None),
        (1, Some(K16)),
        (16 << 10, Some(K16)),
        ((16 << 10) + 1, Some(K64)),
        (64 << 10, Some(K64)),
        (256 << 10, Some(K256)),
        ((256 << 10) + 1, Some(M1)),
        (1 << 20, Some(M1)),
        ((1 << 20) + 1, None),
        (usize::MAX, None),
    ];
    for (bytes, class) in expected {
        assert_eq!(StackClass::for_bytes(bytes), class, "{bytes}");
    }
}

#[test]
fn a_handle_is_one_word() {
    assert_eq!(size_of::<Option<Stack>>(), size_of::<usize>());
    fn sendable<T: Send>() {}
    sendable::<StackCache>();
    sendable::<Stack>();
}

#[test]
fn tops_are_aligned_and_of_sixteen_colours() {
    for class in StackClass::ALL {
        let pool = StackPool::new();
        let mut cache = StackCache::new(&pool);
        let stacks = take_all(&pool, &mut cache, class, 48);
        let mut colours = HashMap::new();
        for stack in &stacks {
            assert_eq!(stack.class(), class);
            assert_eq!(stack.limit().addr().get() % 4096, 0);
            let end = stack.limit().addr().get() + class.bytes();
            let offset = end - stack.top().addr().get();
            assert!(offset % 64 == 0 && offset < 1024, "{offset}");
            *colours.entry(offset).or_insert(0) += 1;
        }
        assert_eq!(colours.len(), 16);
        assert!(colours.values().all(|&n| n == 3), "{class:?}: {colours:?}");
        put_all(&pool, &mut cache, stacks);
    }
}

#[test]
fn stacks_and_guards_do_not_overlap() {
    let pool = StackPool::new();
    let mut cache = StackCache::new(&pool);
    let mut stacks = Vec::new();
    for class in StackClass::ALL {
        stacks.extend(take_all(&pool, &mut cache, class, 700));
    }
    for stack in &stacks {
        write(stack.limit(), 1);
        write(below(stack.top(), 1), 2);
    }
    let mut ranges: Vec<_> = stacks
        .iter()
        .map(|s| (s.guard_limit(), s.limit().addr().get() + s.class().bytes()))
        .collect();
    ranges.sort_unstable();
    assert!(
        ranges
            .windows(2)
            .all(|pair| pair[0].1 <= pair[1].0.addr().get())
    );
    put_all(&pool, &mut cache, stacks);
}

#[test]
fn the_hottest_stack_is_taken_first() {
    let pool = StackPool::new();
    let mut cache = StackCache::new(&pool);
    let stacks = take_all(&pool, &mut cache, StackClass::K64, 10);
    put_all(&pool, &mut cache, stacks.clone());
    for &stack in stacks.iter().rev() {
        assert_eq!(cache.take(&pool, StackClass::K64), Ok(stack));
    }
    put_all(&pool, &mut cache, stacks);
}

#[test]
fn a_guard_of_every_kind_faults_and_no_guard_does_not() {
    for class in StackClass::ALL {
        for mode in [GuardMode::Install, GuardMode::Mprotect, GuardMode::None] {
            let fails = |from| if mode as u8 >= from as u8 { FOREVER } else { 0 };
            fail::arm(Call::GuardBatch, 0, fails(GuardMode::Mprotect));
            fail::arm(Call::Guard, 0, fails(GuardMode::Mprotect));
            fail::arm(Call::Protect, 0, fails(GuardMode::None));
            let pool = StackPool::new();
            let mut cache = StackCache::new(&pool);
            let stacks = take_all(&pool, &mut cache, class, 5);
            // An older kernel has no Install to offer.
            let in_use = pool.guard_mode();
            assert!(in_use == mode || (mode, in_use) == (GuardMode::Install, GuardMode::Mprotect));
            for &stack in &stacks[3..] {
                assert!(!dies_of_touching(stack.limit()));
                let guarded = mode != GuardMode::None;
                assert_eq!(
                    dies_of_touching(below(stack.limit(), 1)),
                    guarded,
                    "{class:?} {mode:?}"
                );
                assert_eq!(
                    dies_of_touching(stack.guard_limit()),
                    guarded,
                    "{class:?} {mode:?}"
                );
            }
            put_all(&pool, &mut cache, stacks);
        }
    }
}

#[test]
fn guards_fall_back_one_by_one_and_are_counted() {
    let counts = |batch, guard, protect| {
        fail::arm(Call::GuardBatch, 0, batch);
        fail::arm(Call::Guard, guard, FOREVER);
        fail::arm(Call::Protect, protect, FOREVER);
        let pool = StackPool::new();
        let mut cache = StackCache::new(&pool);
        let stack = cache.take(&pool, StackClass::K16).unwrap();
        cache.put(&pool, stack);
        (pool.counts(), pool.guard_mode())
    };
    // 1 MiB of slots of 20 KiB: 51 stacks where pages are of 4 KiB.
    let total = {
        let (c, _) = counts(1, 0, 0);
        c.unguarded
    };
    assert!(total >= 8);
    let (c, mode) = counts(1, 0, 5);
    assert_eq!(
        (c.guards_installed, c.guards_mprotected, c.unguarded),
        (0, 5, total - 5)
    );
    assert_eq!(mode, GuardMode::None);
    let (c, mode) = counts(1, 0, FOREVER);
    assert_eq!(
        (c.guards_installed, c.guards_mprotected, c.unguarded),
        (0, total, 0)
    );
    assert_eq!(mode, GuardMode::Mprotect);
    if guard::probe_unhindered() == GuardMode::Install {
        let (c, mode) = counts(1, 3, 4);
        assert_eq!(
            (c.guards_installed, c.guards_mprotected, c.unguarded),
            (3, 4, total - 7)
        );
        assert_eq!(mode, GuardMode::None);
        let (c, mode) = counts(1, FOREVER, 0);
        assert_eq!((c.guards_installed, mode), (total, GuardMode::Install));
    }
}

#[test]
fn mprotect_guards_are_bounded_for_the_process_and_released() {
    succeeds_in_child(|| {
        fail::arm(Call::GuardBatch, 0, FOREVER);
        fail::arm(Call::Guard, 0, FOREVER);
        guard::leave_mprotect_room(100);
        let before = guard::leave_mprotect_room(100);
        let pool = StackPool::new();
        let mut cache = StackCache::new(&pool);
        let stacks = take_all(&pool, &mut cache, StackClass::K16, 300);
        let counts = pool.counts();
        assert_eq!(counts.guards_mprotected, 100);
        assert!(counts.unguarded >= 200);
        put_all(&pool, &mut cache, stacks);
        drop((cache, pool));
        assert_eq!(guard::leave_mprotect_room(100), before);
    });
}

#[test]
fn the_mode_is_known_before_the_first_stack() {
    let pool = StackPool::new();
    let before = pool.guard_mode();
    let mut cache = StackCache::new(&pool);
    let stack = cache.take(&pool, StackClass::K64).unwrap();
    assert_eq!(pool.guard_mode(), before);
    cache.put(&pool, stack);
}

#[test]
fn a_refused_slab_is_tried_smaller() {
    let pool = StackPool::new();
    let mut cache = StackCache::new(&pool);
    fail::arm(Call::Map, 0, 2);
    let stack = cache.take(&pool, StackClass::K64).unwrap();
    // 8 slots refused, 4 refused, 2 granted.
    assert_eq!(pool.counts().mapped_bytes, 2 * StackClass::K64.slot_bytes());
    cache.put(&pool, stack);
}

#[test]
fn no_memory_is_an_error_and_ends_when_memory_is_back() {
    for class in StackClass::ALL {
        let pool = StackPool::new();
        let mut cache = StackCache::new(&pool);
        fail::arm(Call::Map, 1, FOREVER);
        let mut stacks = Vec::new();
        let error = loop {
            match cache.take(&pool, class) {
                Ok(stack) => stacks.push(stack),
                Err(error) => break error,
            }
        };
        assert_eq!(error, StackError::OutOfMemory);
        assert!(!stacks.is_empty());
        let counts = pool.counts();
        assert_eq!((counts.failures, counts.live), (1, stacks.len()));
        // One that comes back is enough to go on.
        cache.put(&pool, stacks.pop().unwrap());
        stacks.push(cache.take(&pool, class).unwrap());
        fail::arm(Call::Map, 0, 0);
        stacks.push(cache.take(&pool, class).unwrap());
        assert_eq!(pool.counts().failures, 1);
        put_all(&pool, &mut cache, stacks);
        assert_eq!(pool.counts().live, 0);
    }
}

#[test]
fn a_limit_on_address_space_gives_an_error_and_no_crash() {
    succeeds_in_child(|| {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: usize = statm.split(' ').next().unwrap().parse().unwrap();
        let bytes = (pages * sys::page_size() + (64 << 20)) as libc::rlim_t;
        let limit = libc::rlimit {
            rlim_cur: bytes,
            rlim_max: bytes,
        };
        // SAFETY: a plain limit on this child.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);

        let pool = StackPool::new();
        let mut cache = StackCache::new(&pool);
        let mut stacks = Vec::with_capacity(1000);
        while let Ok(stack) = cache.take(&pool, StackClass::M1) {
            write(below(stack.top(), 1), 1);
            stacks.push(stack);
        }
        // 64 MiB hold at least 30 of 1 MiB and a guard, whatever else was mapped meanwhile.
        assert!((30..64).contains(&stacks.len()), "{}", stacks.len());
        assert!(pool.counts().failures > 0);
        let last = stacks.pop().unwrap();
        cache.put(&pool, last);
        assert_eq!(cache.take(&pool, StackClass::M1), Ok(last));
        stacks.push(last);
        put_all(&pool, &mut cache, stacks);
    });
}

#[test]
fn locked_memory_gets_its_guards_by_mprotect() {
    const CANNOT_LOCK: i32 = 42;
    let end = in_child(|| {
        // SAFETY: concerns this child only.
        if unsafe { libc::mlockall(libc::MCL_FUTURE) } != 0 {
            return CANNOT_LOCK;
        }
        let pool = StackPool::new();
        let mut cache = StackCache::new(&pool);
        let stacks = take_all(&pool, &mut cache, StackClass::K64, 20);
        let counts = pool.counts();
        assert_eq!((counts.guards_installed, counts.unguarded), (0, 0));
        assert_eq!(pool.guard_mode(), GuardMode::Mprotect);
        assert!(dies_of_touching(below(stacks[0].limit(), 1)));
        // Locked pages cannot be discarded either; that must not be taken for done.
        put_all(&pool, &mut cache, stacks);
        cache.trim(&pool, 0);
        assert_eq!(pool.trim(0), 0);
        0
    });
    // Without any right to lock memory (RLIMIT_MEMLOCK of 0) the case cannot arise.
    assert!(matches!(end, Child::Returned(0 | CANNOT_LOCK)));
}

#[test]
fn caches_are_bounded_and_move_batches() {
    for class in StackClass::ALL {
        let capacity = cache::CAPACITY[class.index()];
        let pool = StackPool::new();
        let mut cache = StackCache::new(&pool);
        let n = 3 * capacity + 7;
        let stacks = take_all(&pool, &mut cache, class, n);
        assert_eq!(
            stacks
                .iter()
                .map(|s| s.limit())
                .collect::<HashSet<_>>()
                .len(),
            n
        );
        for &stack in &stacks {
            cache.put(&pool, stack);
            assert!(cache.cached() <= capacity);
        }
        assert!(cache.cached() >= capacity / 2);
        let counts = pool.counts();
        assert_eq!((counts.live, counts.cached), (0, cache.cached()));
        assert!(counts.free >= n - capacity);
        cache.trim(&pool, 3);
        assert_eq!(cache.cached(), 3);
        assert_eq!(
            cache.take(&pool, class),
            Ok(stacks[n - 1]),
            "the hottest is kept"
        );
        cache.put(&pool, stacks[n - 1]);
    }
}

#[test]
fn steady_state_maps_and_carves_nothing() {
    let pool = StackPool::new();
    let mut cache = StackCache::new(&pool);
    let mut stacks = take_all(&pool, &mut cache, StackClass::K16, 2_000);
    let before = pool.counts();
    fail::arm(Call::Map, 0, FOREVER);
    for round in 0..20 {
        put_all(&pool, &mut cache, stacks);
        stacks = take_all(&pool, &mut cache, StackClass::K16, 1_000 + round * 50);
    }
    let after = pool.counts();
    fail::arm(Call::Map, 0, 0);
    assert_eq!(after.mapped_bytes, before.mapped_bytes);
    assert_eq!(after.guards_installed, before.guards_installed);
    put_all(&pool, &mut cache, stacks);
}

#[test]
fn live_stacks_are_counted_exactly_on_one_core() {
    let pool = StackPool::new();
    let mut cache = StackCache::new(&pool);
    let mut most = 0;
    for n in [1, 5, 700, 40, 900, 0, 3] {
        let stacks = take_all(&pool, &mut cache, StackClass::K16, n);
        most = most.max(n);
        let counts = pool.counts();
        assert_eq!((counts.live, counts.live_max), (n, most));
        put_all(&pool, &mut cache, stacks);
        let counts = pool.counts();
        assert_eq!((counts.live, counts.live_max), (0, most));
    }
}

#[test]
fn stacks_may_come_back_through_another_cache() {
    let pool = StackPool::new();
    let (mut giver, mut taker) = (StackCache::new(&pool), StackCache::new(&pool));
    for _ in 0..10 {
        let stacks = take_all(&pool, &mut taker, StackClass::K64, 300);
        assert_eq!(pool.counts().live, 300);
        put_all(&pool, &mut giver, stacks);
        assert_eq!(pool.counts().live, 0);
    }
    let counts = pool.counts();
    assert!(
        (300..=300 + 2 * 256).contains(&counts.live_max),
        "{}",
        counts.live_max
    );
    assert!(counts.guards_installed + counts.guards_mprotected + counts.unguarded <= 300 + 2 * 512);
}

#[test]
fn trimming_discards_pages_once_and_keeps_the_hottest() {
    let pool = StackPool::new();
    let mut cache = StackCache::new(&pool);
    let stacks = take_all(&pool, &mut cache, StackClass::K64, 100);
    for stack in &stacks {
        write(below(stack.top(), 1), 7);
        write(below(stack.top(), 20_000), 7);
    }
    put_all(&pool, &mut cache, stacks.clone());
    assert_eq!(
        pool.trim(0),
        0,
        "what a core caches is not the pool's to discard"
    );
    let cached = cache.cached();
    cache.trim(&pool, 0);
    assert_eq!(pool.trim(10), cached - 10);
    assert_eq!(pool.trim(10), 0, "nothing is discarded twice");
    for (i, stack) in stacks.iter().enumerate() {
        assert_eq!(stack.resident_high_water() > 0, i >= 90, "{i}");
    }
    assert_eq!(pool.counts().live, 0);
    // The guards have survived, and so has the use of the stacks.
    if pool.guard_mode() != GuardMode::None {
        assert!(dies_of_touching(below(stacks[0].limit(), 1)));
    }
    let again = take_all(&pool, &mut cache, StackClass::K64, 100);
    let known: HashSet<_> = stacks.iter().map(|s| s.limit()).collect();
    assert!(again.iter().filter(|s| known.contains(&s.limit())).count() >= 36);
    assert_eq!(read(below(stacks[0].top(), 1)), 0);
    put_all(&pool, &mut cache, again);
}

#[test]
fn the_high_water_mark_is_the_lowest_page_touched() {
    let page = sys::page_size();
    for class in StackClass::ALL {
        let pool = StackPool::new();
        let mut cache = StackCache::new(&pool);
        let stack = cache.take(&pool, class).unwrap();
        assert_eq!(stack.resident_high_water(), 0);
        let colour = stack.limit().addr().get() + class.bytes() - stack.top().addr().get();
        let mut depth = 64;
        while depth <= class.bytes() - colour {
            write(below(stack.top(), depth), 1);
            let expected = (depth + colour).next_multiple_of(page).min(class.bytes()) - colour;
            assert_eq!(stack.resident_high_water(), expected, "{class:?} {depth}");
            depth *= 2;
        }
        write(stack.limit(), 1);
        assert_eq!(stack.resident_high_water(), class.bytes() - colour);
        cache.put(&pool, stack);
    }
}

#[test]
fn a_stack_has_one_holder_under_exchange_and_trimming() {
    const THREADS: usize = 4;
    const ROUNDS: usize = 4_000;
    let pool = StackPool::new();
    let (give, receive): (Vec<_>, Vec<_>) =
        (0..THREADS).map(|_| mpsc::channel::<(Stack, u8)>()).unzip();
    std::thread::scope(|scope| {
        let workers: Vec<_> = receive
            .into_iter()
            .enumerate()
            .map(|(me, receive)| {
                let (pool, next) = (&pool, give[(me + 1) % THREADS].clone());
                scope.spawn(move || {
                    let mut cache = StackCache::new(pool);
                    let finish = |cache: &mut StackCache, (stack, mark): (Stack, u8)| {
                        // Another holder would have changed it, a wrong discard zeroed it.
                        assert_eq!(read(below(stack.top(), 8)), mark);
                        cache.put(pool, stack);
                    };
                    for round in 0..ROUNDS {
                        let class = StackClass::ALL[round % 2];
                        let mark = (1 + (me * 61 + round) % 255) as u8;
                        let stack = cache.take(pool, class).unwrap();
                        write(below(stack.top(), 8), mark);
                        // Half of them end on another core.
                        if round % 2 == me % 2 {
                            next.send((stack, mark)).unwrap();
                        } else {
                            finish(&mut cache, (stack, mark));
                        }
                        // Let a backlog build up, then take it in at once.
                        if round % 500 == 499 {
                            receive.try_iter().for_each(|sent| finish(&mut cache, sent));
                        }
                        if round % 700 == 699 {
                            cache.trim(pool, 4);
                        }
                    }
                    drop(next);
                    receive.iter().for_each(|sent| finish(&mut cache, sent));
                    cache.trim(pool, 0);
                })
            })
            .collect();
        drop(give);
        while !workers.iter().all(|worker| worker.is_finished()) {
            pool.trim(2);
            pool.counts();
            std::thread::yield_now();
        }
    });
    let counts = pool.counts();
    assert_eq!((counts.live, counts.cached), (0, 0));
    assert_eq!(
        counts.free,
        counts.guards_installed + counts.guards_mprotected + counts.unguarded,
        "every carved stack is back"
    );
}

#[test]
fn dropping_the_pool_unmaps_everything() {
    succeeds_in_child(|| {
        let pool = StackPool::new();
        let mut cache = StackCache::new(&pool);
        let mut stacks = Vec::new();
        for class in StackClass::ALL {
            stacks.extend(take_all(&pool, &mut cache, class, 200));
        }
        put_all(&pool, &mut cache, stacks.clone());
        drop((cache, pool));
        let mut resident = [0; 1];
        for stack in stacks {
            // SAFETY: only asked about; an unmapped page is the expected answer.
            assert!(!unsafe { sys::residency(stack.pages().0, sys::page_size(), &mut resident) });
        }
    });
}

#[test]
fn the_call_numbers_are_those_of_the_kernel() {
    // One number on all architectures since Linux 5.1.
    assert_eq!(libc::SYS_pidfd_open, 434);
    assert_eq!(libc::SYS_process_madvise, 440);
}
