/* What it costs to go on: in the steady state the library allocates less than once per 1,000 operations, and a vthread that
 * waits on a fresh stack has touched one page of it.
 *
 * SWN_TEST: skip valgrind the allocator is replaced by the tool
 * SWN_TEST: skip asan the allocator is replaced by the tool */
#include "check.h"

#include <sys/socket.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static long allocations;

static void count(void) { __atomic_fetch_add(&allocations, 1, __ATOMIC_RELAXED); }

/* Definitions of the program come before the C library's, also for the calls that libswiftnet.so makes. */
void *malloc(size_t n) { count(); return __libc_malloc(n); }
void *calloc(size_t n, size_t size) { count(); return __libc_calloc(n, size); }
void *realloc(void *old, size_t n) { count(); return __libc_realloc(old, n); }
void *aligned_alloc(size_t align, size_t n) { count(); return __libc_memalign(align, n); }
int posix_memalign(void **out, size_t align, size_t n) {
  count();
  *out = __libc_memalign(align, n);
  return *out ? 0 : ENOMEM;
}

/* Below 64: crossbeam-deque allocates when a run queue grows beyond that, and again when it has shrunk. */
enum { BATCH = 50 };

static swn_sem_t ping, pong;
static int fds[2];

static void *trivial(void *arg) { return arg; }

static void *answer(void *arg) {
  for (uintptr_t i = 0; i < (uintptr_t)arg; i++) {
    CHECK_OK(swn_sem_acquire(&ping, SWN_FOREVER));
    CHECK_OK(swn_sem_release(&pong, 1));
  }
  return NULL;
}

static void *echo(void *arg) {
  char byte;
  for (uintptr_t i = 0; i < (uintptr_t)arg; i++) CHECK_EQ(swn_recv(fds[1], &byte, 1, 0, SWN_FOREVER), 1);
  return NULL;
}

static void *work(void *arg) {
  uintptr_t rounds = (uintptr_t)arg;
  swn_vthread_t vt[BATCH], other[2];
  for (uintptr_t r = 0; r < rounds; r++) {
    for (int i = 0; i < BATCH; i++) CHECK_OK(swn_spawn(NULL, trivial, NULL, NULL, &vt[i]));
    for (int i = 0; i < BATCH; i++) CHECK_OK(swn_join(vt[i], NULL, SWN_FOREVER));
    CHECK_OK(swn_spawn(NULL, answer, (void *)(uintptr_t)BATCH, NULL, &other[0]));
    CHECK_OK(swn_spawn(NULL, echo, (void *)(uintptr_t)BATCH, NULL, &other[1]));
    for (int i = 0; i < BATCH; i++) {
      CHECK_OK(swn_sem_release(&ping, 1));
      CHECK_OK(swn_sem_acquire(&pong, swn_deadline_after(60 * SECOND)));
      CHECK_EQ(swn_send(fds[0], "x", 1, 0, SWN_FOREVER), 1);
      CHECK_OK(swn_yield());
    }
    CHECK_OK(swn_join(other[0], NULL, SWN_FOREVER));
    CHECK_OK(swn_join(other[1], NULL, SWN_FOREVER));
    CHECK_OK(swn_sleep_for(1000));
  }
  return NULL;
}

static swn_sem_t never;

static void *wait_for_ever(void *arg) {
  CHECK_EQ(swn_sem_acquire(&never, SWN_FOREVER), -ECANCELED);
  return arg;
}

/* The smallest mark of several: stacks that were in use before keep the marks of their former holders. */
static void one_page(void) {
  swn_runtime_t *rt = start(1);
  swn_vthread_t vt[64];
  for (size_t i = 0; i < COUNT(vt); i++) CHECK_OK(swn_spawn(rt, wait_for_ever, NULL, NULL, &vt[i]));
  size_t least = SIZE_MAX;
  for (size_t i = 0; i < COUNT(vt); i++) {
    swn_vthread_context_t context;
    do CHECK_OK(swn_vthread_context(vt[i], &context, sizeof context));
    while (context.state != SWN_STATE_WAITING);
    if (context.stack_high_water_bytes < least) least = context.stack_high_water_bytes;
  }
  CHECK(least > 0);
  CHECK(least <= 4096);
  CHECK_OK(swn_runtime_stop(rt, swn_deadline_after(2 * SECOND)));
  CHECK_OK(swn_runtime_destroy(rt));
}

int main(void) {
  int pair[2];
  one_page();
  swn_runtime_t *rt = start(2);
  CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
  fds[0] = pair[0];
  fds[1] = pair[1];
  uintptr_t rounds = scaled(200);
  run_in(rt, work, (void *)rounds);
  long before = __atomic_load_n(&allocations, __ATOMIC_RELAXED);
  run_in(rt, work, (void *)rounds);
  long during = __atomic_load_n(&allocations, __ATOMIC_RELAXED) - before;
  long operations = (long)rounds * BATCH * 6;
  fprintf(stderr, "%ld allocations in %ld operations\n", during, operations);
  CHECK(during * 1000 < operations);
  CHECK_OK(swn_runtime_stop(rt, swn_deadline_after(60 * SECOND)));
  CHECK_OK(swn_runtime_destroy(rt));
  return 0;
}
