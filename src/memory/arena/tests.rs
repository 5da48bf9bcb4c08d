use super::*;

const KB64: usize = 64 * 1024;

/// What a pooled arena may hold: its chunk as bumpalo rounds it.
const CHUNK_AT_MOST: usize = KB64 + 4096;

#[test]
fn memory_is_aligned_writable_and_does_not_overlap() {
    let pool = ArenaPool::new(1, KB64);
    let mut arena = pool.take(0);
    let mut blocks: Vec<(usize, usize)> = Vec::new();
    for round in 0..20 {
        for shift in 0..=12 {
            let (bytes, align) = (round * 37 + 1, 1 << shift);
            let block = arena.alloc(bytes, align).unwrap();
            assert_eq!(block.addr().get() % align, 0);
            // SAFETY: `bytes` bytes were just allocated there.
            unsafe { block.write_bytes(0xa5, bytes) };
            blocks.push((block.addr().get(), bytes));
        }
    }
    blocks.sort_unstable();
    assert!(
        blocks
            .windows(2)
            .all(|pair| pair[0].0 + pair[0].1 <= pair[1].0)
    );
    pool.give_back(0, arena);
}

#[test]
fn bad_requests_are_refused_and_cost_nothing() {
    let pool = ArenaPool::new(1, KB64);
    let mut arena = pool.take(0);
    for align in [0, 3, 24, 4095, 8192, 1 << 63, usize::MAX] {
        assert_eq!(arena.alloc(8, align), None, "align {align}");
    }
    let max = isize::MAX as usize;
    for bytes in [usize::MAX, max + 1, max, max - 4096, 1 << 60] {
        assert_eq!(arena.alloc(bytes, 16), None, "bytes {bytes}");
    }
    assert!(arena.alloc(8, 8).is_some());
    assert!(
        arena.held_bytes() <= CHUNK_AT_MOST,
        "a refused request left an overflow behind"
    );
    assert!(arena.alloc(0, 64).is_some());
    pool.give_back(0, arena);
}

#[test]
fn nothing_is_allocated_before_the_first_use() {
    let pool = ArenaPool::new(2, 1 << 30);
    let arena = pool.take(1);
    assert_eq!(
        pool.counts(),
        ArenaCounts {
            bytes: 0,
            live: 1,
            pooled: 0
        }
    );
    pool.give_back(0, arena);
    assert_eq!(
        pool.counts(),
        ArenaCounts {
            bytes: 0,
            live: 0,
            pooled: 1
        }
    );
}

#[test]
fn the_first_chunk_is_reused_and_the_overflow_is_freed() {
    let pool = ArenaPool::new(1, KB64);
    let mut arena = pool.take(0);
    let first = arena.alloc(1000, 16).unwrap();
    for _ in 0..1000 {
        arena.alloc(1000, 16).unwrap();
    }
    assert!(pool.counts().bytes >= 1_000_000);
    pool.give_back(0, arena);
    assert!((KB64..=CHUNK_AT_MOST).contains(&pool.counts().bytes));
    let mut arena = pool.take(0);
    assert_eq!(
        arena.alloc(1000, 16),
        Some(first),
        "the same chunk from its start"
    );
    pool.give_back(0, arena);
}

#[test]
fn memory_stays_flat_while_an_old_connection_always_overlaps() {
    let pool = ArenaPool::new(2, KB64);
    let mut old = pool.take(0);
    old.alloc(100, 8).unwrap();
    let mut highest = 0;
    for round in 0..2_000 {
        let mut young = pool.take(round % 2);
        // Every tenth one outgrows its chunk four times over.
        let bytes = if round % 10 == 0 { 5 * KB64 } else { KB64 / 2 };
        young.alloc(bytes, 16).unwrap();
        highest = highest.max(pool.counts().bytes);
        // The younger becomes the old one: at no time is there none.
        pool.give_back((round + 1) % 2, std::mem::replace(&mut old, young));
    }
    // Two at a time, both at their largest, and one idle chunk per core.
    assert!(
        highest <= 2 * 6 * KB64 + 2 * CHUNK_AT_MOST,
        "{highest} bytes"
    );
    pool.give_back(0, old);
    assert_eq!(pool.counts().live, 0);
    pool.trim();
    assert_eq!(pool.counts(), ArenaCounts::default());
}

#[test]
fn a_core_keeps_a_bounded_number_of_arenas() {
    let pool = ArenaPool::new(1, 4096);
    let arenas: Vec<_> = (0..3 * KEPT).map(|_| pool.take(0)).collect();
    for mut arena in arenas {
        arena.alloc(64, 8).unwrap();
        pool.give_back(0, arena);
    }
    let counts = pool.counts();
    assert_eq!((counts.live, counts.pooled), (0, KEPT));
    assert!(counts.bytes <= KEPT * 8192, "{} bytes", counts.bytes);
}

#[test]
fn an_arena_given_back_on_one_core_serves_another() {
    let pool = ArenaPool::new(4, KB64);
    let mut arena = pool.take(0);
    let memory = arena.alloc(64, 64);
    pool.give_back(3, arena);
    let mut arena = pool.take(1);
    assert_eq!(arena.alloc(64, 64), memory);
    pool.give_back(1, arena);
}

#[test]
fn an_arena_has_one_owner_at_a_time() {
    const THREADS: usize = 4;
    const ROUNDS: usize = if cfg!(miri) { 50 } else { 20_000 };
    let pool = ArenaPool::new(2, 4096);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let pool = &pool;
            scope.spawn(move || {
                let mut held = Vec::new();
                for round in 0..ROUNDS {
                    let mut arena = pool.take(thread);
                    let mark = arena.alloc(8, 8).unwrap().cast::<usize>();
                    // SAFETY: 8 bytes, aligned, just allocated.
                    unsafe { mark.write_volatile(thread * ROUNDS + round) };
                    held.push((arena, mark, thread * ROUNDS + round));
                    if held.len() > round % 50 {
                        for (arena, mark, expected) in held.drain(..) {
                            // SAFETY: the arena was not given back yet.
                            assert_eq!(unsafe { mark.read_volatile() }, expected);
                            pool.give_back(round, arena);
                        }
                    }
                }
                for (arena, _, _) in held {
                    pool.give_back(thread, arena);
                }
            });
        }
    });
    assert_eq!(pool.counts().live, 0);
    pool.trim();
    assert_eq!(pool.counts(), ArenaCounts::default());
}

#[test]
fn an_arena_may_outlive_its_pool() {
    let pool = ArenaPool::new(1, KB64);
    let mut arena = pool.take(0);
    drop(pool);
    assert!(arena.alloc(8, 8).is_some());
}
