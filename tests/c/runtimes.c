/* Several runtimes in one process: each keeps its vthreads, they share semaphores, and one stops without the others. */
#include "check.h"
#include <pthread.h>

enum { RUNTIMES = 4 };
static swn_runtime_t *runtimes[RUNTIMES];
static swn_sem_t ring[RUNTIMES];

static void *pass_on(void *arg) {
  uintptr_t mine = (uintptr_t)arg;
  uint32_t rounds = scaled(2000);
  for (uint32_t i = 0; i < rounds; i++) {
    CHECK_OK(swn_sem_acquire(&ring[mine], soon()));
    CHECK(swn_runtime_current() == runtimes[mine]);
    CHECK_OK(swn_sem_release(&ring[(mine + 1) % RUNTIMES], 1));
  }
  return arg;
}

static void *stay(void *rt) {
  CHECK(swn_runtime_current() == (swn_runtime_t *)rt);
  return rt;
}

/* A vthread may spawn into, and join from, another runtime. */
static void *cross(void *arg) {
  for (int i = 0; i < RUNTIMES; i++) CHECK(run_in(runtimes[i], stay, runtimes[i]) == runtimes[i]);
  return arg;
}

/* A vthread of one runtime may stop another. */
static void *stop_other(void *arg) {
  finish((swn_runtime_t *)arg);
  return arg;
}

static void *start_and_stop(void *arg) {
  for (uint32_t i = 0; i < scaled(20); i++) {
    swn_runtime_t *rt = start(1 + i % 2);
    CHECK(run_in(rt, stay, rt) == rt);
    finish(rt);
  }
  return arg;
}

int main(void) {
  swn_vthread_t vts[RUNTIMES];
  for (int i = 0; i < RUNTIMES; i++) runtimes[i] = start(1 + i % 2);
  for (uintptr_t i = 0; i < RUNTIMES; i++) vts[i] = spawn(runtimes[i], pass_on, (void *)i);
  CHECK_OK(swn_sem_release(&ring[0], 1));
  for (int i = 0; i < RUNTIMES; i++) join(vts[i]);
  for (int i = 0; i < RUNTIMES; i++) run_in(runtimes[i], cross, NULL);
  finish(runtimes[3]);
  CHECK_EQ(swn_spawn(runtimes[3], stay, NULL, NULL, NULL), SWN_ESTALE_HANDLE);
  run_in(runtimes[0], stop_other, runtimes[2]);
  run_in(runtimes[1], stay, runtimes[1]);
  finish(runtimes[1]);
  finish(runtimes[0]);

  pthread_t threads[4];
  for (size_t i = 0; i < COUNT(threads); i++) CHECK_OK(pthread_create(&threads[i], NULL, start_and_stop, NULL));
  for (size_t i = 0; i < COUNT(threads); i++) CHECK_OK(pthread_join(threads[i], NULL));
  return 0;
}
