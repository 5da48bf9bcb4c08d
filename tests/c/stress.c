/* Everything at once: spawning, stealing, waking, timers, I/O and stopping under load. */
#include "check.h"
#include <pthread.h>

static swn_runtime_t *rt;
static int64_t finished;
static swn_sem_t permits;
static int stopping;

static uint32_t next_random(uint32_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 17;
  *state ^= *state << 5;
  return *state;
}

/* -ECANCELED is right once the runtime is being stopped. */
static void ok(int64_t status) {
  if (status == -ECANCELED && __atomic_load_n(&stopping, __ATOMIC_SEQ_CST)) return;
  CHECK_OK(status);
}

static void *leaf(void *arg) {
  __atomic_add_fetch(&finished, 1, __ATOMIC_SEQ_CST);
  return arg;
}

static void *mixed(void *arg) {
  uint32_t random = (uint32_t)(uintptr_t)arg * 2654435761u + 1;
  for (int step = 0; step < 20; step++) {
    switch (next_random(&random) % 8) {
      case 0: ok(swn_yield()); break;
      case 1: ok(swn_sleep_for(next_random(&random) % 200000)); break;
      case 2: {
        int status = swn_sem_acquire(&permits, soon());
        if (status == 0) {
          if (random & 1) ok(swn_yield());
          ok(swn_sem_release(&permits, 1));
        } else {
          ok(status);
        }
        break;
      }
      case 3: {
        swn_vthread_t vt;
        int status = swn_spawn(NULL, leaf, arg, NULL, &vt);
        if (status == SWN_ESTOPPED && __atomic_load_n(&stopping, __ATOMIC_SEQ_CST)) break;
        CHECK_OK(status);
        ok(swn_join(vt, NULL, soon()));
        break;
      }
      case 4: {
        int fds[2];
        char byte = 'x';
        CHECK_OK(swn_pipe(fds));
        ok(swn_write(fds[1], &byte, 1, soon()) - 1);
        int64_t got = swn_read(fds[0], &byte, 1, soon());
        ok(got == 1 ? 0 : got);
        int64_t late = swn_read(fds[0], &byte, 1, swn_deadline_after(next_random(&random) % 50000));
        CHECK(late == -ETIMEDOUT || late == -ECANCELED);
        CHECK_OK(swn_close(fds[0]));
        CHECK_OK(swn_close(fds[1]));
        break;
      }
      case 5: {
        int status = swn_sem_acquire(&permits, swn_deadline_after(next_random(&random) % 20000));
        if (status == 0)
          ok(swn_sem_release(&permits, 1));
        else if (status != -ETIMEDOUT)
          ok(status);
        break;
      }
      case 6: CHECK(swn_arena_alloc(next_random(&random) % 5000 + 1, 16) != NULL); break;
      default: {
        volatile uint32_t work = 0;
        for (uint32_t i = 0; i < random % 3000; i++) work += i;
      }
    }
  }
  __atomic_add_fetch(&finished, 1, __ATOMIC_SEQ_CST);
  return arg;
}

static void *outside(void *arg) {
  for (uintptr_t i = 0; i < scaled(300); i++) {
    swn_vthread_t vt = spawn(rt, mixed, (void *)(i + (uintptr_t)arg));
    CHECK(join(vt) == (void *)(i + (uintptr_t)arg));
  }
  return NULL;
}

/* A burst from outside into a runtime that sleeps, again and again: a lost wake-up hangs it. */
static void bursts(void) {
  for (uint32_t i = 0; i < scaled(2000); i++) {
    swn_vthread_t vts[4];
    for (size_t k = 0; k < COUNT(vts); k++) vts[k] = spawn(rt, leaf, NULL);
    for (size_t k = 0; k < COUNT(vts); k++) join(vts[k]);
    if (i % 16 == 0) swn_sleep_for(MS / 5);
  }
}

int main(void) {
  CHECK_OK(swn_sem_init(&permits, 3));
  rt = start(2);
  bursts();
  uint32_t n = scaled(3000);
  swn_vthread_t *vts = (swn_vthread_t *)calloc(n, sizeof *vts);
  pthread_t threads[3];
  for (size_t i = 0; i < COUNT(threads); i++)
    CHECK_OK(pthread_create(&threads[i], NULL, outside, (void *)(uintptr_t)(i * 1000)));
  for (uint32_t i = 0; i < n; i++) vts[i] = spawn(rt, mixed, (void *)(uintptr_t)i);
  for (uint32_t i = 0; i < n; i++) CHECK(join(vts[i]) == (void *)(uintptr_t)i);
  for (size_t i = 0; i < COUNT(threads); i++) CHECK_OK(pthread_join(threads[i], NULL));
  CHECK_EQ(swn_sem_permits(&permits), 3);
  swn_stats_t stats;
  AWAIT(swn_stats_read(rt, &stats, sizeof stats) == 0 && stats.live == 0);
  CHECK_EQ(stats.spawned, stats.completed);
  finish(rt);
  free(vts);

  /* Stopped at full load. */
  for (uint32_t round = 0; round < scaled(20); round++) {
    __atomic_store_n(&stopping, 0, __ATOMIC_SEQ_CST);
    rt = start(1 + round % 3);
    for (uintptr_t i = 0; i < 200; i++) CHECK_OK(swn_spawn(rt, mixed, (void *)i, NULL, NULL));
    swn_sleep_for(round % 5 * MS / 5);
    __atomic_store_n(&stopping, 1, __ATOMIC_SEQ_CST);
    finish(rt);
  }
  return 0;
}
