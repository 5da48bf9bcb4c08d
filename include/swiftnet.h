/* swiftnet: virtual threads for C and C++.
 *
 * Generated from src/ffi by `make header`; do not edit.
 *
 * Licensed under the MIT license or the Apache License 2.0, as you prefer. */

#ifndef SWIFTNET_H
#define SWIFTNET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct addrinfo;
struct sockaddr;

#ifdef __cplusplus
extern "C" {
#endif

/* ---- status ------------------------------------------------------------------------------------ */

/**
 * Success.
 */
#define SWN_OK 0

/**
 * The handle's vthread or runtime is gone, or the handle was never valid.
 */
#define SWN_ESTALE_HANDLE (-10001)

/**
 * Possible only inside a vthread.
 */
#define SWN_ENOTVTHREAD (-10002)

/**
 * The runtime is stopping or stopped.
 */
#define SWN_ESTOPPED (-10003)

/**
 * The runtime was inherited through fork(2) and cannot be used in the child.
 */
#define SWN_EFORKED (-10004)

/**
 * A struct's size, or a field that this version does not know, is not acceptable.
 */
#define SWN_EVERSION (-10005)

/**
 * No memory for a stack: the vthread never ran.
 */
#define SWN_ENOSTACK (-10006)

/**
 * An internal error was caught at the boundary; please report it.
 */
#define SWN_EPANICKED (-10007)

/**
 * Failures of getaddrinfo(3) are SWN_EAI - |EAI_x|.
 */
#define SWN_EAI (-20000)

/**
 * The name of a status: "ETIMEDOUT", "SWN_ESTOPPED", "SWN_OK" (also for counts), or "unknown". Static text, never NULL.
 * Any thread; never parks; async-signal-safe.
 */
const char *swn_error_name(int64_t status);

/**
 * A message for a status, as strerror(3) has it for system errors. Static text, never NULL. Any thread; never parks.
 */
const char *swn_strerror(int64_t status);

/* ---- time -------------------------------------------------------------------------------------- */

/**
 * A deadline that never passes.
 */
#define SWN_FOREVER UINT64_MAX

/**
 * Version of this header.
 */
#define SWN_VERSION_MAJOR 0

/**
 * Version of this header.
 */
#define SWN_VERSION_MINOR 1

/**
 * Version of this header.
 */
#define SWN_VERSION_PATCH 0

/**
 * The version of the library in use: major << 16 | minor << 8 | patch. Any thread; never parks.
 */
uint32_t swn_version(void);

/**
 * Now: CLOCK_MONOTONIC nanoseconds, as all deadlines are. Any thread; never parks.
 */
uint64_t swn_now(void);

/**
 * The deadline timeout_ns nanoseconds from now; SWN_FOREVER where that would overflow. Any thread; never parks.
 */
uint64_t swn_deadline_after(uint64_t timeout_ns);

/* ---- runtime ----------------------------------------------------------------------------------- */

/**
 * What serves most hosts: in this version, as SWN_AFFINITY_NONE. A carrier that is bound to a CPU cannot move away from
 * another thread that wants it, and its work waits meanwhile, even beside an idle CPU.
 */
#define SWN_AFFINITY_AUTO 0

/**
 * Carriers are left to the operating system.
 */
#define SWN_AFFINITY_NONE 1

/**
 * Each carrier is put on a CPU of its own, round robin.
 */
#define SWN_AFFINITY_PIN 2

/**
 * The best I/O back end there is.
 */
#define SWN_DRIVER_AUTO 0

/**
 * Readiness: epoll(7).
 */
#define SWN_DRIVER_READINESS 1

/**
 * Guard pages by MADV_GUARD_INSTALL (Linux 6.13): no mapping of their own.
 */
#define SWN_GUARD_INSTALL 1

/**
 * Guard pages by mprotect(2): one mapping each, as far as vm.max_map_count allows.
 */
#define SWN_GUARD_MPROTECT 2

/**
 * Some stacks have no guard.
 */
#define SWN_GUARD_NONE 3

/**
 * The best that the system has: SWN_PREEMPT_HANDOFF, or SWN_PREEMPT_COOPERATIVE where membarrier(2) is refused.
 */
#define SWN_PREEMPT_AUTO 0

/**
 * A vthread gives up its core only in calls of this library.
 */
#define SWN_PREEMPT_COOPERATIVE 1

/**
 * The core of a vthread that runs over its slice, or blocks its OS thread, is handed to another OS thread.
 */
#define SWN_PREEMPT_HANDOFF 2

/**
 * As SWN_PREEMPT_HANDOFF; and of the vthreads that ran on without a core, no more than there are cores run at a time: the
 * others are stopped in turn, by a signal to their OS thread. For hosts that want a bound on running threads; what host code
 * may notice of it is in docs/preemption.md.
 */
#define SWN_PREEMPT_STOP 3

/**
 * A runtime. Owned: released with swn_runtime_stop and swn_runtime_destroy. A checked handle, never dereferenced: a stale
 * one gives SWN_ESTALE_HANDLE.
 */
typedef struct swn_runtime_t swn_runtime_t;

/**
 * A mount that took too long, borrowed until the function that is told of it returns.
 */
typedef struct swn_overrun_t {
  /**
   * sizeof(swn_overrun_t) of the library.
   */
  size_t size;
  /**
   * The vthread; it may have ended since.
   */
  uint64_t id;
  /**
   * Its name, zero-terminated.
   */
  char name[16];
  /**
   * Its function, and that function's name if the dynamic linker knows it, or NULL.
   */
  const void *entry;
  const char *entry_symbol;
  /**
   * How long it ran without giving up its turn.
   */
  uint64_t ran_ns;
  /**
   * Where it was mounted.
   */
  uint32_t core;
  /**
   * 1: its core was taken away meanwhile.
   */
  uint32_t lost_core;
  /**
   * Return addresses in the call at which it gave up its turn, innermost first, for backtrace_symbols(3); 0 of them if it
   * came to no such call.
   */
  void *const *frames;
  size_t frame_count;
} swn_overrun_t;

/**
 * Is told of a mount that took too long; in a vthread of its own, so it may wait.
 */
typedef void (*swn_overrun_fn)(void *arg, const swn_overrun_t *overrun);

/**
 * How a runtime is started. Fill it with swn_runtime_options_init, then change what you want; a zero field is the default.
 */
typedef struct swn_runtime_options_t {
  /**
   * Set by swn_runtime_options_init.
   */
  size_t size;
  /**
   * Number of cores, each with one carrier thread; 0: as many as the process may use. At most 1,024.
   */
  uint32_t cores;
  /**
   * SWN_AFFINITY_*.
   */
  uint32_t affinity;
  /**
   * Time after which a vthread has to let others run, 100 us to 10 s; 0: 10 ms.
   */
  uint64_t slice_ns;
  /**
   * Default stack, at most 1 MiB, rounded up to 16, 64, 256 or 1,024 KiB; 0: 256 KiB.
   */
  size_t stack_bytes;
  /**
   * First chunk of a vthread's arena, 4 KiB to 1 GiB; 0: 1 MiB.
   */
  size_t arena_bytes;
  /**
   * SWN_DRIVER_*.
   */
  uint32_t driver;
  /**
   * Most OS threads for calls that block (files, name look-up, swn_offload), up to 1,024; 0: 64. Started on demand.
   */
  uint32_t offload_threads;
  /**
   * SWN_PREEMPT_*.
   */
  uint32_t preemption;
  /**
   * Most carriers (OS threads that run vthreads) at a time, up to 32,768; 0: 4,096, or half of what RLIMIT_NPROC or the
   * control group's pids.max allow if that is less. More than `cores` exist only while vthreads run too long.
   */
  uint32_t carriers_max;
  /**
   * The signal for SWN_PREEMPT_STOP; 0: SIGURG. Its handler is installed for good, and passes on what is not meant for it.
   * Not one of a fault, SIGKILL or SIGSTOP: -EINVAL.
   */
  int stop_signal;
  /**
   * Is told, with overrun_arg, of each mount that took overrun_ns or longer (at least 1 ms; 0: the slice). NULL: nobody.
   */
  swn_overrun_fn on_overrun;
  void *overrun_arg;
  uint64_t overrun_ns;
} swn_runtime_options_t;

/**
 * What a runtime runs with.
 */
typedef struct swn_features_t {
  /**
   * As given by the caller.
   */
  size_t size;
  /**
   * As swn_version.
   */
  uint32_t version;
  /**
   * Number of cores.
   */
  uint32_t cores;
  /**
   * SWN_DRIVER_READINESS.
   */
  uint32_t driver;
  /**
   * SWN_GUARD_*: the weakest in use.
   */
  uint32_t guard_mode;
  /**
   * SWN_AFFINITY_NONE or SWN_AFFINITY_PIN, as in force.
   */
  uint32_t affinity;
  /**
   * SWN_PREEMPT_COOPERATIVE, SWN_PREEMPT_HANDOFF or SWN_PREEMPT_STOP, as in force.
   */
  uint32_t preemption;
  /**
   * The slice, as chosen at the start.
   */
  uint64_t slice_ns;
} swn_features_t;

/**
 * Fills o with defaults. size: sizeof *o. 0; -EINVAL if o is NULL; SWN_EVERSION for an impossible size. Any thread.
 */
int swn_runtime_options_init(swn_runtime_options_t *o, size_t size);

/**
 * Starts a runtime and stores its handle in *out. o: options, borrowed for the call; NULL: defaults. Errors: -EINVAL,
 * -ERANGE (a value out of its range), SWN_EVERSION, -EAGAIN (255 runtimes, or no more threads), -ENOMEM, -EMFILE. Starts
 * one thread per core, and a monitor if there are several; they block all signals but faults, so signal handlers run on the host's threads. Any thread.
 */
int swn_runtime_start(const swn_runtime_options_t *o,
                      swn_runtime_t **out);

/**
 * Stops a runtime: vthreads may end by themselves for half of the time; then every wait of theirs returns -ECANCELED, and
 * so does every later one. Spawning from outside gives SWN_ESTOPPED from the start, from inside in the second half.
 * 0: all have ended, and no thread, descriptor or mapping of the runtime is left (handles of vthreads are stale). -ETIMEDOUT:
 * some are still there (swn_vthread_foreach tells which); the runtime stays valid and swn_runtime_stop may be called again.
 * -EDEADLK: called from a vthread of this runtime. SWN_EFORKED. Blocks the calling OS thread; any thread.
 */
int swn_runtime_stop(swn_runtime_t *rt, uint64_t deadline_ns);

/**
 * Releases the handle of a stopped runtime. -EBUSY until swn_runtime_stop has returned 0. In a child of fork(2):
 * SWN_EFORKED; what was inherited is given up. Any thread.
 */
int swn_runtime_destroy(swn_runtime_t *rt);

/**
 * The runtime of the calling vthread, borrowed until the vthread ends; NULL outside of one. Any thread; never parks.
 */
swn_runtime_t *swn_runtime_current(void);

/**
 * What rt runs with; rt NULL: the calling vthread's runtime. size: sizeof *out. Any thread; never parks.
 */
int swn_runtime_features(swn_runtime_t *rt, swn_features_t *out, size_t size);

/* ---- vthread ----------------------------------------------------------------------------------- */

/**
 * Nobody will join it: its handle is released at its end.
 */
#define SWN_SPAWN_DETACHED 1

/**
 * Runs only on core `core`.
 */
#define SWN_SPAWN_FIXED_CORE 2

/**
 * Once started, runs only on the OS thread that started it: for libraries that keep state in thread-local variables.
 */
#define SWN_SPAWN_BOUND 4

/**
 * Queued to core `core` first; another one may steal it.
 */
#define SWN_SPAWN_PREFER_CORE 8

/**
 * Releases what arg points to.
 */
typedef void (*swn_destructor_fn)(void *arg);

/**
 * How a vthread is spawned. Fill it with swn_spawn_options_init, then change what you want; a zero field is the default.
 */
typedef struct swn_spawn_options_t {
  /**
   * Set by swn_spawn_options_init.
   */
  size_t size;
  /**
   * Shown in contexts and lists; copied, cut to 15 bytes; NULL: none.
   */
  const char *name;
  /**
   * At most 1 MiB, rounded up to 16, 64, 256 or 1,024 KiB; 0: the runtime's default.
   */
  size_t stack_bytes;
  /**
   * SWN_SPAWN_*.
   */
  uint32_t flags;
  /**
   * For SWN_SPAWN_FIXED_CORE and SWN_SPAWN_PREFER_CORE.
   */
  uint32_t core;
  /**
   * Called once with arg, on a vthread's stack: after the function has returned, or if it never ran. NULL: none. Not
   * called if swn_spawn fails.
   */
  swn_destructor_fn arg_destructor;
} swn_spawn_options_t;

/**
 * What a vthread runs. Runs on the vthread's own stack and may wait anywhere; after a wait it may be on another OS thread.
 * The return value is what swn_join gives. No C++ exception may leave it.
 */
typedef void *(*swn_vthread_fn)(void *arg);

/**
 * A vthread: a checked handle. 0 is never one. A stale handle gives SWN_ESTALE_HANDLE and is never mistaken for another.
 */
typedef uint64_t swn_vthread_t;

/**
 * Fills o with defaults. size: sizeof *o. 0; -EINVAL if o is NULL; SWN_EVERSION for an impossible size. Any thread.
 */
int swn_spawn_options_init(swn_spawn_options_t *o, size_t size);

/**
 * Spawns a vthread that runs fn(arg) and stores its handle in *out; it must be joined or detached. out NULL: detached. rt
 * NULL: the calling vthread's runtime. o: options, borrowed for the call; NULL: defaults. Errors: -EINVAL (fn NULL, unknown
 * flags), -ERANGE (core, stack), -ENOMEM, SWN_ENOTVTHREAD (rt NULL outside a vthread), SWN_ESTOPPED, SWN_ESTALE_HANDLE,
 * SWN_EFORKED, SWN_EVERSION. Its stack is taken when it first runs; where there is none, it ends with SWN_ENOSTACK. Any
 * thread; waking; parks only to give up a turn that is over.
 */
int swn_spawn(swn_runtime_t *rt, swn_vthread_fn fn, void *arg, const swn_spawn_options_t *o, swn_vthread_t *out);

/**
 * Spawns n vthreads fn(`args[i]`) in one call (args NULL: NULL for each) and stores their handles in `out[i]`; out NULL:
 * detached. Returns how many were spawned, fewer than n only when memory ran out; an error, as of swn_spawn, if none
 * were. Any thread; waking; parks only to give up a turn that is over.
 */
int64_t swn_spawn_batch(swn_runtime_t *rt,
                        swn_vthread_fn fn,
                        void *const *args,
                        size_t n,
                        const swn_spawn_options_t *o,
                        swn_vthread_t *out);

/**
 * Waits for vt to end, stores what its function returned in *result (result may be NULL) and releases the handle. 0;
 * -ETIMEDOUT and -ECANCELED (the handle stays valid); -EINVAL: detached, or another joins it; -EDEADLK: itself;
 * SWN_ESTALE_HANDLE; SWN_ENOSTACK: it never ran (the handle is released). Any thread: a vthread parks, an OS thread blocks.
 */
int swn_join(swn_vthread_t vt, void **result, uint64_t deadline_ns);

/**
 * Lets vt go: its handle is released at its end. -EINVAL: detached already, or another joins it; SWN_ESTALE_HANDLE. Any
 * thread; never parks.
 */
int swn_detach(swn_vthread_t vt);

/**
 * The calling vthread; 0 outside of one. Any thread; never parks.
 */
swn_vthread_t swn_self(void);

/**
 * Gives up the turn: other runnable vthreads of this core go first, those that are ready to go on and new ones in turn.
 * SWN_ENOTVTHREAD outside a vthread. May park.
 */
int swn_yield(void);

/**
 * Sleeps until deadline_ns, not less; at once if it has passed. 0; -ECANCELED when the runtime stops. Any thread: a vthread
 * parks, an OS thread blocks.
 */
int swn_sleep_until(uint64_t deadline_ns);

/**
 * Sleeps for timeout_ns nanoseconds, as swn_sleep_until.
 */
int swn_sleep_for(uint64_t timeout_ns);

/* ---- section ----------------------------------------------------------------------------------- */

/**
 * The calling vthread is about to block its OS thread: its core serves others from here, on another OS thread, until
 * swn_blocking_end, or until the vthread has waited in between (swn_*), which brings it back onto a core. Not needed for that
 * (the library notices after about a millisecond, the first time after up to 6), but it saves the others that time; it costs
 * some microseconds, so it is for calls that do block. Everything may be called meanwhile. Nests.
 * 0; SWN_ENOTVTHREAD; SWN_EFORKED. Never parks.
 */
int swn_blocking_begin(void);

/**
 * Ends what swn_blocking_begin began; the outermost one queues up for a core. 0; -EINVAL: none was begun;
 * SWN_ENOTVTHREAD; SWN_EFORKED. May park.
 */
int swn_blocking_end(void);

/**
 * The calling vthread stays on its OS thread until swn_unpin: for libraries that keep something in thread-local storage
 * between calls. As SWN_SPAWN_BOUND for a time: it may wait, and others run on the thread meanwhile; while one of those blocks
 * the thread, this one waits for it. Nests. 0;
 * SWN_ENOTVTHREAD; SWN_EFORKED. May park, before the section begins.
 */
int swn_pin(void);

/**
 * Ends what swn_pin began. 0; -EINVAL: none was begun; SWN_ENOTVTHREAD; SWN_EFORKED. Never parks.
 */
int swn_unpin(void);

/**
 * The calling vthread keeps its core until swn_preempt_enable, and gives up no turn for having run too long: for short
 * sections in which others wait for it. After ten slices the core is taken all the same, and counted
 * (`handoffs_forced`). It does not exclude other vthreads, and does not keep the OS from running other threads. Nests. 0;
 * SWN_ENOTVTHREAD; SWN_EFORKED. May park, before the section begins.
 */
int swn_preempt_disable(void);

/**
 * Ends what swn_preempt_disable began; the outermost one gives up a turn that is over. 0; -EINVAL: none was begun;
 * SWN_ENOTVTHREAD; SWN_EFORKED. May park.
 */
int swn_preempt_enable(void);

/* ---- local ------------------------------------------------------------------------------------- */

/**
 * A key of vthread-local storage; 0 is never one.
 */
typedef uint32_t swn_key_t;

/**
 * Creates a key, valid in the whole process. destructor (NULL: none) is called at a vthread's end, on its stack, with each
 * value that is not NULL; up to four rounds, as pthread_key_create(3). -EAGAIN: 128 keys exist; -EINVAL. Any thread.
 */
int swn_key_create(swn_destructor_fn destructor, swn_key_t *out);

/**
 * Deletes a key. Its values are forgotten; their destructors are not called. -EINVAL: not a key. Any thread.
 */
int swn_key_delete(swn_key_t key);

/**
 * Sets the calling vthread's value. SWN_ENOTVTHREAD outside a vthread; -EINVAL: not a key; -ENOMEM. Never parks.
 */
int swn_key_set(swn_key_t key, void *value);

/**
 * The calling vthread's value; NULL if it has none, outside a vthread, or for what is no key. Never parks.
 */
void *swn_key_get(swn_key_t key);

/* ---- arena ------------------------------------------------------------------------------------- */

/**
 * Memory of the calling vthread's arena: bytes bytes (at least 1), aligned to align (a power of two, at most 4,096; 0: 16),
 * uninitialised. It need not and cannot be freed: all of it is reclaimed at the vthread's end. NULL: no memory, align not
 * valid, or called outside a vthread. May be used by other threads while the vthread lives; never parks.
 */
void *swn_arena_alloc(size_t bytes, size_t align);

/* ---- semaphore --------------------------------------------------------------------------------- */

/**
 * Most permits of a semaphore.
 */
#define SWN_SEM_MAX 1073741823

/**
 * A counting semaphore. All-zero is a valid one without permits; it needs no destruction and may be discarded as soon as
 * nobody waits for it and the call that released the last waiter is over for that waiter. Must not be moved while waited
 * for.
 */
typedef struct swn_sem_t {
  /**
   * Private.
   */
  uint64_t opaque[4];
} swn_sem_t;

/**
 * Storage of a wait in completion form. Host memory, borrowed until the completion starts.
 */
typedef struct swn_completion_t {
  /**
   * Private.
   */
  uint64_t opaque[16];
} swn_completion_t;

/**
 * Called with the outcome of a wait in completion form, in a vthread of its own: 0 or -ECANCELED.
 */
typedef void (*swn_completion_fn)(void *arg, int status);

/**
 * Makes *sem a semaphore with permits permits, at most SWN_SEM_MAX. Not while it is in use. -EINVAL; -ERANGE. Any thread.
 */
int swn_sem_init(swn_sem_t *sem, uint32_t permits);

/**
 * Takes a permit, waiting for one until deadline_ns; first come, first served. 0; -ETIMEDOUT; -ECANCELED when the runtime
 * stops; -EINVAL. Any thread: a vthread parks, an OS thread blocks.
 */
int swn_sem_acquire(swn_sem_t *sem, uint64_t deadline_ns);

/**
 * Takes a permit if there is one. 0; -EAGAIN; -EINVAL. Any thread; never parks.
 */
int swn_sem_try_acquire(swn_sem_t *sem);

/**
 * Adds permits permits (1 or more), to the longest waiting first. 0; -EOVERFLOW: there would be more than SWN_SEM_MAX;
 * -EINVAL. Any thread; waking; parks only to give up a turn that is over.
 */
int swn_sem_release(swn_sem_t *sem, uint32_t permits);

/**
 * The permits that can be had now; -EINVAL. Any thread; never parks.
 */
int64_t swn_sem_permits(const swn_sem_t *sem);

/**
 * Takes a permit in completion form: fn(arg, status) is called in a vthread of rt (NULL: the calling vthread's runtime) as
 * soon as a permit is had (status 0) or the wait is cancelled (-ECANCELED). op: host storage, borrowed until fn starts.
 * 0; -EINVAL; -ENOMEM; SWN_ESTOPPED; SWN_ESTALE_HANDLE. Any thread; waking; never parks.
 */
int swn_sem_acquire_then(swn_sem_t *sem, swn_runtime_t *rt, swn_completion_t *op, swn_completion_fn fn, void *arg);

/**
 * Cancels a wait in completion form: 0: fn will be called with -ECANCELED; -ENOENT: it has had its permit, or was
 * cancelled. op must be one whose fn has not started. Any thread; waking; never parks.
 */
int swn_sem_cancel(swn_sem_t *sem, swn_completion_t *op);

/* ---- io ---------------------------------------------------------------------------------------- */

/**
 * swn_poll: there is something to read, or the end of it.
 */
#define SWN_POLLIN 1

/**
 * swn_poll: something can be written.
 */
#define SWN_POLLOUT 4

/**
 * swn_tcp_listen: several listeners may share the address and port (SO_REUSEPORT).
 */
#define SWN_LISTEN_REUSEPORT 1

/**
 * read(2): more than 0: that many bytes; 0: the end; or an error of read(2), -ETIMEDOUT, -ECANCELED (the descriptor was
 * closed or the wait cancelled). Any descriptor with readiness may be given. Its first use in a vthread adopts it:
 * O_NONBLOCK is set, and remembered for swn_fd_forget. The attempt comes first: with a deadline that has passed, or 0,
 * what is there is read. A host that closes a used descriptor by itself must call swn_fd_forget before. Any thread; may
 * park.
 *
 * buf is borrowed until the call returns.
 */
int64_t swn_read(int fd, void *buf, size_t len, uint64_t deadline_ns);

/**
 * write(2): how many bytes were written, which may be fewer than len; or an error of write(2), -ETIMEDOUT, -ECANCELED.
 * A peer that is gone is -EPIPE and never SIGPIPE. In a plain OS thread a blocking pipe takes at most PIPE_BUF bytes in
 * one call. Any thread; may park.
 *
 * buf is borrowed until the call returns.
 */
int64_t swn_write(int fd, const void *buf, size_t len, uint64_t deadline_ns);

/**
 * Writes all len bytes, and returns len; or an error as of swn_write, after which some of them may have been written.
 * Any thread; may park.
 *
 * buf is borrowed until the call returns.
 */
int64_t swn_write_all(int fd, const void *buf, size_t len, uint64_t deadline_ns);

/**
 * recv(2) with its flags; otherwise as swn_read. Any thread; may park.
 *
 * buf is borrowed until the call returns.
 */
int64_t swn_recv(int fd, void *buf, size_t len, int flags, uint64_t deadline_ns);

/**
 * send(2) with its flags; otherwise as swn_write. MSG_NOSIGNAL is always set. Any thread; may park.
 *
 * buf is borrowed until the call returns.
 */
int64_t swn_send(int fd, const void *buf, size_t len, int flags, uint64_t deadline_ns);

/**
 * Accepts a connection: the new descriptor, owned (released with swn_close), non-blocking and close-on-exec; or an error
 * of accept(2), -ETIMEDOUT, -ECANCELED. addr and addr_len as in accept(2); both NULL: not wanted. Any thread; may park.
 *
 * addr is NULL or points to *addr_len writable bytes.
 */
int swn_accept(int fd, struct sockaddr *addr, uint32_t *addr_len, uint64_t deadline_ns);

/**
 * connect(2): 0; or an error of connect(2), -ETIMEDOUT, -ECANCELED, after which the socket should be closed: the attempt
 * may go on in the background. Any thread; may park.
 *
 * addr points to addr_len bytes, borrowed until the call returns.
 */
int swn_connect(int fd, const struct sockaddr *addr, uint32_t addr_len, uint64_t deadline_ns);

/**
 * Waits until one of events (SWN_POLLIN, SWN_POLLOUT, or others of poll(2)) holds, and returns those that do, with
 * POLLERR and POLLHUP; or -ETIMEDOUT, -ECANCELED, -EBADF, -EINVAL. Level-triggered: it says what poll(2) says. For
 * descriptors that another library reads and writes. Any thread; may park.
 */
int swn_poll(int fd, int events, uint64_t deadline_ns);

/**
 * A listening TCP socket, owned (released with swn_close). address is a numeric IPv4 or IPv6 address, or NULL for all of
 * both; port 0: the system chooses; backlog below 1: the system's greatest. -EINVAL for another address or flag, or an
 * error of socket(2), bind(2), listen(2). Any thread; never parks.
 *
 * address is NULL or zero-terminated.
 */
int swn_tcp_listen(const char *address, uint16_t port, int backlog, uint32_t flags);

/**
 * Connects to host (a name or a numeric address) with TCP_NODELAY; the descriptor is owned (released with swn_close). Of
 * several addresses each gets an equal share of the time that is left. -ETIMEDOUT, -ECANCELED, an error of connect(2), or
 * a code of the look-up. Any thread; may park.
 *
 * host is zero-terminated.
 */
int swn_tcp_connect(const char *host, uint16_t port, uint64_t deadline_ns);

/**
 * A listening Unix socket at path, which must not exist; owned (released with swn_close; the path stays). -ENAMETOOLONG
 * beyond 107 bytes. backlog as for swn_tcp_listen. Any thread; never parks.
 *
 * path is zero-terminated.
 */
int swn_unix_listen(const char *path, int backlog);

/**
 * Connects to the Unix socket at path; the descriptor is owned (released with swn_close). Waits while the listener's
 * backlog is full. Any thread; may park.
 *
 * path is zero-terminated.
 */
int swn_unix_connect(const char *path, uint64_t deadline_ns);

/**
 * A pipe: `fds[0]` to read, `fds[1]` to write, both owned (released with swn_close), non-blocking and close-on-exec. 0 or an
 * error of pipe(2). Any thread; never parks.
 *
 * fds has room for two.
 */
int swn_pipe(int *fds);

/**
 * Closes fd. vthreads that wait for it get -ECANCELED, in whatever runtime; an OS thread that blocks on it does not
 * notice, as with close(2). 0 or an error of close(2). Any thread; never parks.
 */
int swn_close(int fd);

/**
 * Gives fd back to the host, which then closes it by itself or goes on using it: vthreads that wait for it get
 * -ECANCELED, and it is blocking again if it was before its first use. 0 or -EBADF. Any thread; never parks.
 */
int swn_fd_forget(int fd);

/**
 * Waits for one of the signals in signal_mask (bit n-1: signal n), which the host has blocked in all of its threads, and
 * returns its number; or -ETIMEDOUT, -ECANCELED, -EINVAL. Any thread; may park.
 */
int swn_signal_wait(uint64_t signal_mask, uint64_t deadline_ns);

/* ---- offload ----------------------------------------------------------------------------------- */

/**
 * A blocking call of the host: gets the arg of swn_offload; what it returns is the result.
 */
typedef void *(*swn_offload_fn)(void *arg);

/**
 * open(2), with O_CLOEXEC: a descriptor, owned (released with swn_file_close or swn_close). The deadline of this and the
 * other file calls bounds the time until an OS thread of the runtime takes the call; once started it runs to its end. In
 * a plain OS thread it runs at once. -ETIMEDOUT, -ECANCELED: it was not started. Any thread; may park.
 *
 * path is zero-terminated, borrowed until the call returns.
 */
int swn_open(const char *path, int flags, uint32_t mode, uint64_t deadline_ns);

/**
 * pread(2): the count, 0 at the end, or an error. -EINVAL for an offset beyond INT64_MAX. Any thread; may park.
 *
 * buf is borrowed until the call returns.
 */
int64_t swn_pread(int fd, void *buf, size_t len, uint64_t offset, uint64_t deadline_ns);

/**
 * pwrite(2): the count or an error. -EINVAL for an offset beyond INT64_MAX. Any thread; may park.
 *
 * buf is borrowed until the call returns.
 */
int64_t swn_pwrite(int fd, const void *buf, size_t len, uint64_t offset, uint64_t deadline_ns);

/**
 * fsync(2): 0 or an error. Any thread; may park.
 */
int swn_fsync(int fd, uint64_t deadline_ns);

/**
 * close(2), which may block for a file: 0 or an error. After -ETIMEDOUT or -ECANCELED the descriptor is still open. Any
 * thread; may park.
 */
int swn_file_close(int fd, uint64_t deadline_ns);

/**
 * getaddrinfo(3): 0 and a list, owned (released with freeaddrinfo(3)). Its errors EAI_* come as -(20000 + |EAI_*|), a
 * system error as -errno. At the deadline a look-up under way is abandoned (-ETIMEDOUT) and frees itself; in a plain OS
 * thread it runs to its end. Any thread; may park.
 *
 * node and service are NULL or zero-terminated; hints is NULL or valid.
 */
int swn_getaddrinfo(const char *node,
                    const char *service,
                    const struct addrinfo *hints,
                    struct addrinfo **out,
                    uint64_t deadline_ns);

/**
 * Runs fn(arg) on an OS thread of the runtime, where it may block, and waits for it; in a plain OS thread it runs right
 * there. 0 and, if result is not NULL, what it returned. -ETIMEDOUT, -ECANCELED: it was not started, and never will be;
 * once it has started it is waited for to its end. All signals are blocked in that thread. fn must return: it must not
 * end the thread or throw. Any thread; may park.
 *
 * fn may be called with arg on another thread; result is NULL or writable.
 */
int swn_offload(swn_offload_fn fn, void *arg, void **result, uint64_t deadline_ns);

/* ---- stats ------------------------------------------------------------------------------------- */

/**
 * Spawned and not yet started.
 */
#define SWN_STATE_CREATED 0

/**
 * Runnable, in a queue.
 */
#define SWN_STATE_READY 1

/**
 * Running.
 */
#define SWN_STATE_RUNNING 2

/**
 * Waiting, for what the reason says.
 */
#define SWN_STATE_WAITING 3

/**
 * Runs on without a core, which was taken away because it ran over its slice or blocked.
 */
#define SWN_STATE_PREEMPTED 4

/**
 * Ended, and not yet joined.
 */
#define SWN_STATE_DONE 5

/**
 * Has not waited yet.
 */
#define SWN_REASON_NONE 0

/**
 * A descriptor.
 */
#define SWN_REASON_IO 1

/**
 * A point in time.
 */
#define SWN_REASON_TIMER 2

/**
 * A semaphore or lock.
 */
#define SWN_REASON_LOCK 3

/**
 * A channel; does not occur in this version.
 */
#define SWN_REASON_CHANNEL 4

/**
 * The end of another vthread.
 */
#define SWN_REASON_JOIN 5

/**
 * A call on the offload pool.
 */
#define SWN_REASON_OFFLOAD 6

/**
 * A distribution of durations. Percentiles are upper bounds of buckets at most 1/8 wide.
 */
typedef struct swn_histogram_t {
  uint64_t count;
  uint64_t sum_ns;
  uint64_t max_ns;
  uint64_t p50_ns;
  uint64_t p90_ns;
  uint64_t p99_ns;
  uint64_t p999_ns;
} swn_histogram_t;

/**
 * What a runtime, or one core of it, has counted since its start. Counters are read while the cores run: each is exact,
 * together they are of nearly the same moment.
 */
typedef struct swn_stats_t {
  /**
   * As given by the caller.
   */
  size_t size;
  /**
   * Time since the start.
   */
  uint64_t uptime_ns;
  /**
   * Cores of the runtime (of a core: 1).
   */
  uint32_t cores;
  /**
   * Of these, asleep.
   */
  uint32_t cores_parked;
  /**
   * Vthreads spawned (of a core: by code on it).
   */
  uint64_t spawned;
  /**
   * Vthreads that have ended (of a core: on it).
   */
  uint64_t completed;
  /**
   * Vthreads that live. Not per core.
   */
  uint64_t live;
  /**
   * Times a vthread was mounted.
   */
  uint64_t scheduled;
  /**
   * Of these, not the vthread's first.
   */
  uint64_t resumed;
  /**
   * Waits for I/O.
   */
  uint64_t suspended_io;
  /**
   * Waits for a point in time.
   */
  uint64_t suspended_timer;
  /**
   * Waits for a semaphore or lock.
   */
  uint64_t suspended_sync;
  /**
   * Waits for the end of a vthread.
   */
  uint64_t suspended_join;
  /**
   * Waits for a call on the offload pool.
   */
  uint64_t suspended_offload;
  /**
   * Turns given up by swn_yield.
   */
  uint64_t yields;
  /**
   * Vthreads taken from other cores.
   */
  uint64_t stolen;
  /**
   * Attempts at that.
   */
  uint64_t steal_attempts;
  /**
   * Switches back from a vthread.
   */
  uint64_t context_switches;
  /**
   * Cores taken away from a vthread that ran over its slice. Not per core.
   */
  uint64_t preempted;
  /**
   * Turns given up at a runtime call because the slice was over, or many calls were made without a wait.
   */
  uint64_t budget_yields;
  /**
   * Times a core woke up from sleep.
   */
  uint64_t wakeups;
  /**
   * Times a core went to sleep.
   */
  uint64_t parks;
  /**
   * Looks at the I/O back end.
   */
  uint64_t driver_polls;
  /**
   * Events it gave.
   */
  uint64_t io_events;
  /**
   * Timers that came due.
   */
  uint64_t timers_fired;
  /**
   * Timers that are armed. Not per core.
   */
  uint64_t timers_armed;
  /**
   * CPU time spent in vthreads, in microseconds.
   */
  uint64_t cpu_time_us;
  /**
   * Stacks in use. Not per core, like the next five and `queue_depth`.
   */
  uint64_t stacks_live;
  /**
   * Most stacks in use at a time.
   */
  uint64_t stacks_live_max;
  /**
   * Stacks kept for use.
   */
  uint64_t stacks_cached;
  /**
   * Address space of stacks.
   */
  uint64_t stack_bytes_mapped;
  /**
   * Stacks that could not be had.
   */
  uint64_t stack_failures;
  /**
   * Memory of arenas.
   */
  uint64_t arena_bytes;
  /**
   * Vthreads taken from the global queue.
   */
  uint64_t injected;
  /**
   * Vthreads in run queues now.
   */
  uint64_t queue_depth;
  /**
   * Carriers: OS threads that run vthreads. Not per core, like all that follow but the histograms.
   */
  uint64_t carriers;
  /**
   * Of these, resting until a core is handed to them.
   */
  uint64_t carriers_spare;
  /**
   * Of these, busy with a vthread that lost its core.
   */
  uint64_t carriers_without_core;
  /**
   * Carriers whose priority was lowered, because their vthread computed on without a core.
   */
  uint64_t carriers_lowered;
  /**
   * Cores handed to another carrier because the vthread was blocked in the kernel (for running too long: `preempted`).
   */
  uint64_t handoffs_blocked;
  /**
   * The same at swn_blocking_begin.
   */
  uint64_t handoffs_announced;
  /**
   * Cores handed to the thread of a bound vthread.
   */
  uint64_t handoffs_bound;
  /**
   * Cores taken from vthreads that had disabled preemption for over ten slices.
   */
  uint64_t handoffs_forced;
  /**
   * Cores that stayed where they were because `carriers_max` was reached, or the system gave no thread.
   */
  uint64_t handoffs_denied;
  /**
   * Vthreads that queued up for a core again after they had lost theirs.
   */
  uint64_t rejoins;
  /**
   * Times that a vthread without a core was stopped, to let others run (SWN_PREEMPT_STOP).
   */
  uint64_t stops;
  /**
   * Vthreads that ended inside a section (swn_pin, swn_blocking_begin, swn_preempt_disable).
   */
  uint64_t sections_unbalanced;
  /**
   * From being runnable to running; wakes by other vthreads are sampled.
   */
  swn_histogram_t run_delay;
  /**
   * From being mounted to being unmounted.
   */
  swn_histogram_t run_slice;
} swn_stats_t;

/**
 * Receives text, in one call or several; text is not zero-terminated and borrowed until the call returns.
 */
typedef void (*swn_text_fn)(void *arg, const char *text, size_t len);

/**
 * One vthread, as it was while it was looked at.
 */
typedef struct swn_vthread_context_t {
  /**
   * As given by the caller.
   */
  size_t size;
  /**
   * Its handle.
   */
  swn_vthread_t id;
  /**
   * SWN_STATE_*.
   */
  uint32_t state;
  /**
   * SWN_REASON_*: of the present wait or else the last.
   */
  uint32_t reason;
  /**
   * The core it ran on last.
   */
  uint32_t core;
  /**
   * 1 while it is on a core.
   */
  uint32_t mounted;
  /**
   * When it was last mounted (CLOCK_MONOTONIC); 0: never.
   */
  uint64_t last_resume_ns;
  /**
   * CPU time it has used up to its last switch, in microseconds.
   */
  uint64_t cpu_time_us;
  /**
   * Its stack; 0 before it first runs.
   */
  size_t stack_bytes;
  /**
   * How much of its stack is in memory, in whole pages from the top: at least what it has used, with what former users of
   * the stack did. 0 in lists: it takes a system call.
   */
  size_t stack_high_water_bytes;
  /**
   * Its name, zero-terminated.
   */
  char name[16];
} swn_vthread_context_t;

/**
 * Sees one vthread, borrowed until it returns; another value than 0 ends the list.
 */
typedef int (*swn_vthread_visit_fn)(void *arg, const swn_vthread_context_t *vt);

/**
 * The statistics of rt; NULL: of the calling vthread's runtime. size: sizeof *out. 0; -EINVAL; SWN_EVERSION; SWN_ESTOPPED;
 * SWN_ESTALE_HANDLE. Stops nobody. Any thread; never parks.
 */
int swn_stats_read(swn_runtime_t *rt, swn_stats_t *out, size_t size);

/**
 * The counters of one core; the fields that are not per core are 0. -ERANGE: no such core. Otherwise as swn_stats_read.
 */
int swn_stats_read_core(swn_runtime_t *rt, uint32_t core, swn_stats_t *out, size_t size);

/**
 * The statistics of rt as one JSON object, given to fn(arg, text, len). Errors as of swn_stats_read. Any thread; does not
 * park unless fn does.
 */
int swn_stats_json(swn_runtime_t *rt, swn_text_fn fn, void *arg);

/**
 * The statistics of rt in the Prometheus text format 0.0.4, given to fn(arg, text, len). As swn_stats_json.
 */
int swn_stats_prometheus(swn_runtime_t *rt, swn_text_fn fn, void *arg);

/**
 * The context of a vthread, while it runs or waits. size: sizeof *out. 0; SWN_ESTALE_HANDLE; -EINVAL; SWN_EVERSION. Any
 * thread; never parks.
 */
int swn_vthread_context(swn_vthread_t vt, swn_vthread_context_t *out, size_t size);

/**
 * Calls fn(arg, context) for every vthread of rt; returns for how many. Those that come or go meanwhile may or may not be
 * among them. Stops nobody. rt NULL: the calling vthread's runtime. Any thread; fn should not wait, and must not stop the runtime.
 */
int64_t swn_vthread_foreach(swn_runtime_t *rt,
                            swn_vthread_visit_fn fn,
                            void *arg);

/* ---- http -------------------------------------------------------------------------------------- */

/**
 * One request and its response. Borrowed until the handler it was passed to returns: using it later is undefined.
 * Not concurrently on one object.
 */
typedef struct swn_http_exchange_t swn_http_exchange_t;

/**
 * An HTTP server. Owned: released with swn_http_server_destroy. A checked handle: after that it is
 * SWN_ESTALE_HANDLE everywhere.
 */
typedef struct swn_http_server_t swn_http_server_t;

/**
 * Limits of a server; filled by swn_http_options_init, where 0 means the default.
 */
typedef struct swn_http_options_t {
  /**
   * Set by swn_http_options_init.
   */
  size_t size;
  /**
   * Longest request line with headers; 0: 16 KiB; 256 .. 1 MiB. Beyond: status 431.
   */
  size_t max_header_bytes;
  /**
   * Longest request body; 0: 1 MiB; at most 1 GiB. Beyond: status 413.
   */
  size_t max_body_bytes;
  /**
   * How long a connection may wait for its next request, and a client may take nothing of a response; 0: 60 s. Waiting
   * connections are closed up to an eighth of it, and some milliseconds, late.
   */
  uint64_t idle_timeout_ns;
  /**
   * How long a request may take to arrive, from its first byte to its last; 0: 30 s. Beyond: status 408.
   */
  uint64_t request_timeout_ns;
  /**
   * Stack of a connection's vthread, on which handlers run; 0: the runtime's default.
   */
  size_t stack_bytes;
  /**
   * Further connections wait in the kernel; 0: no limit.
   */
  uint32_t max_connections;
  /**
   * Must be 0.
   */
  uint32_t reserved;
} swn_http_options_t;

/**
 * Answers one request. Runs in the vthread of the connection, may wait, and answers by swn_http_respond or the
 * swn_http_chunked functions; if it returns without, the client gets status 500. Handlers of different connections run
 * at the same time. Responses to pipelined requests are sent together: one may wait for the next handler. C++
 * exceptions must not leave it.
 */
typedef void (*swn_http_handler_fn)(void *arg, swn_http_exchange_t *x);

/**
 * Bytes that are not NUL-terminated. Borrowed until the handler returns.
 */
typedef struct swn_str_t {
  const char *ptr;
  size_t len;
} swn_str_t;

/**
 * Fills o with defaults. size: sizeof *o. 0; -EINVAL if o is NULL; SWN_EVERSION for an
 * impossible size. Any thread; never parks.
 *
 * `o` is NULL or points to `size` writable bytes.
 */
int swn_http_options_init(swn_http_options_t *o, size_t size);

/**
 * Creates a server that runs on rt (NULL: the runtime of the calling vthread). o NULL: defaults. 0; -EINVAL;
 * -ERANGE (stack); SWN_EVERSION; SWN_ESTALE_HANDLE; SWN_ENOTVTHREAD. Any thread; never parks.
 *
 * `o` is NULL or points to options that begin with their size; `out` is NULL or writable.
 */
int swn_http_server_create(swn_runtime_t *rt, const swn_http_options_t *o, swn_http_server_t **out);

/**
 * Calls fn(arg, exchange) for requests of that method (case-sensitive) whose path matches the pattern: "/user/{id}"
 * matches one segment, "/files/{*rest}" the rest of the path. Paths are matched as sent, not percent-decoded. A route
 * for GET serves HEAD too. arg is borrowed until the server is destroyed. 0; -EINVAL for a bad method or pattern;
 * -EEXIST if it cannot be told from an earlier route; -EBUSY after swn_http_server_listen; SWN_ESTALE_HANDLE. Any
 * thread; never parks.
 *
 * `method` and `pattern` are NULL or NUL-terminated; `fn` may be called with `arg` from any thread.
 */
int swn_http_route(swn_http_server_t *s, const char *method, const char *pattern, swn_http_handler_fn fn, void *arg);

/**
 * Opens a listener on a numeric address (NULL: any) and port (0: the system chooses) and accepts from now on. Returns
 * the port, or an error: -EADDRINUSE and others of bind(2); -EINVAL for a bad address; SWN_ESTOPPED after
 * swn_http_server_stop. May be called again for another address. Any thread; never parks.
 *
 * `address` is NULL or NUL-terminated.
 */
int swn_http_server_listen(swn_http_server_t *s, const char *address, uint16_t port);

/**
 * Stops a server for good: its listeners and idle connections are closed at once, requests in work are finished with
 * "Connection: close". Waits until all is done. 0; -ETIMEDOUT: some are not done, the server is still stopping, and
 * the call may be repeated; -ECANCELED; SWN_ESTALE_HANDLE. A handler of s that calls this waits for itself. Any
 * thread; may park.
 */
int swn_http_server_stop(swn_http_server_t *s, uint64_t deadline_ns);

/**
 * Releases a server that was stopped or never listened. 0; -EBUSY: it still runs; SWN_ESTALE_HANDLE. Any thread; never
 * parks.
 */
int swn_http_server_destroy(swn_http_server_t *s);

/**
 * The method, as sent. 0 or -EINVAL for NULL, like all functions on an exchange. Only inside the handler; never parks.
 *
 * `x` is NULL or the handler's exchange; `out` is NULL or writable.
 */
int swn_http_method(const swn_http_exchange_t *x, swn_str_t *out);

/**
 * The path without the query, as sent: not percent-decoded. 0 or -EINVAL. Only inside the handler; never parks.
 *
 * As swn_http_method.
 */
int swn_http_path(const swn_http_exchange_t *x, swn_str_t *out);

/**
 * What follows the question mark, as sent; empty if there is none. 0 or -EINVAL. Only inside the handler; never parks.
 *
 * As swn_http_method.
 */
int swn_http_query(const swn_http_exchange_t *x, swn_str_t *out);

/**
 * The part of the path that stands for {name} in the pattern. 0; -ENOENT; -EINVAL. Only inside the handler; never
 * parks.
 *
 * As swn_http_method; `name` is NULL or NUL-terminated.
 */
int swn_http_param(const swn_http_exchange_t *x, const char *name, swn_str_t *out);

/**
 * The value of the first header of that name, in any case. 0; -ENOENT; -EINVAL. Only inside the handler; never parks.
 *
 * As swn_http_method; `name` is NULL or NUL-terminated.
 */
int swn_http_header(const swn_http_exchange_t *x, const char *name, swn_str_t *out);

/**
 * The whole request body, decoded if it came in chunks. 0 or -EINVAL. Only inside the handler; never parks.
 *
 * As swn_http_method.
 */
int swn_http_body(const swn_http_exchange_t *x, swn_str_t *out);

/**
 * Sets a header of the response, before it begins; both strings are copied. An earlier value of that name is replaced,
 * except for Set-Cookie. 0; -EINVAL: the response has begun, the name is not a token, the value holds control
 * characters, or the server writes it itself (Content-Length, Transfer-Encoding, Connection, Date). Only inside the
 * handler; never parks.
 *
 * `x` is NULL or the handler's exchange; the strings are NULL or NUL-terminated.
 */
int swn_http_set_header(swn_http_exchange_t *x, const char *name, const char *value);

/**
 * The whole response, once: status 200 .. 599 (204 and 304 without a body), content_type (NULL: none) and len bytes of
 * body, which are borrowed until this returns. A small response is sent after the handler returned; a large one is
 * sent here. 0; -EINVAL: an argument is wrong, or there is a response already; else an error of the connection, which
 * ends after the handler. Only inside the handler; may park.
 *
 * `x` is NULL or the handler's exchange; `content_type` is NULL or NUL-terminated; `body` points to `len` bytes, or is
 * NULL with `len` 0.
 */
int swn_http_respond(swn_http_exchange_t *x, int status, const char *content_type, const void *body, size_t len);

/**
 * Begins a response whose length is not known (not 204 or 304). HTTP/1.0 clients get it without chunks, ended by the
 * end of the connection. It leaves with the first data. Returns as swn_http_respond. Only inside the handler; never
 * parks.
 *
 * `x` is NULL or the handler's exchange; `content_type` is NULL or NUL-terminated.
 */
int swn_http_chunked_begin(swn_http_exchange_t *x, int status, const char *content_type);

/**
 * Sends len bytes as one chunk, now; they are borrowed until this returns. len 0 sends what waits to be sent and ends
 * nothing. 0; -EINVAL outside swn_http_chunked_begin .. end; else an error of the connection. Only inside the handler;
 * may park.
 *
 * `x` is NULL or the handler's exchange; `data` points to `len` bytes, or is NULL with `len` 0.
 */
int swn_http_chunked_write(swn_http_exchange_t *x, const void *data, size_t len);

/**
 * Ends a response of chunks. A handler that returns without it breaks the connection, so that the client can tell.
 * 0; -EINVAL; else an error of the connection. Only inside the handler; never parks.
 *
 * `x` is NULL or the handler's exchange.
 */
int swn_http_chunked_end(swn_http_exchange_t *x);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* SWIFTNET_H */
