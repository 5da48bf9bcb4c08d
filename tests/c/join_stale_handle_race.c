/* A stale handle does no harm to the vthread that has its record now: threads go on detaching handles, long after their
 * vthreads were joined, while a vthread spawns and joins new ones on the same record. A join fails if and only if a
 * detach of the same handle succeeded. */
#include "check.h"
#include <pthread.h>

static swn_vthread_t *handles; /* [0 .. rounds] */
static int *joined;            /* the status of each join */
static uint8_t *detached;      /* how many detaches of each succeeded */
static uint32_t rounds, current;
static int stop;

static void *nothing(void *arg) { return arg; }

static void *spawner(void *arg) {
  for (uint32_t i = 1; i <= rounds; i++) {
    CHECK_OK(swn_spawn(NULL, nothing, NULL, NULL, &handles[i]));
    /* It ends first: then joining and detaching it both free its record, which the next round uses again. */
    CHECK_OK(swn_yield());
    CHECK_OK(swn_yield());
    __atomic_store_n(&current, i, __ATOMIC_RELEASE);
    joined[i] = swn_join(handles[i], NULL, soon());
  }
  return arg;
}

static void *detacher(void *arg) {
  while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
    uint32_t i = __atomic_load_n(&current, __ATOMIC_ACQUIRE);
    int status = swn_detach(handles[i]); /* handles[0] is 0: never one */
    if (status == 0)
      __atomic_add_fetch(&detached[i], 1, __ATOMIC_RELAXED);
    else
      CHECK(status == SWN_ESTALE_HANDLE || status == -EINVAL);
  }
  return arg;
}

int main(void) {
  pthread_t threads[4];
  rounds = scaled(600000);
  handles = (swn_vthread_t *)calloc(rounds + 1, sizeof *handles);
  joined = (int *)calloc(rounds + 1, sizeof *joined);
  detached = (uint8_t *)calloc(rounds + 1, sizeof *detached);
  CHECK(handles && joined && detached);
  swn_runtime_t *rt = start(1);
  for (size_t i = 0; i < COUNT(threads); i++) CHECK_OK(pthread_create(&threads[i], NULL, detacher, NULL));
  run_in(rt, spawner, NULL);
  __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
  for (size_t i = 0; i < COUNT(threads); i++) CHECK_OK(pthread_join(threads[i], NULL));
  for (uint32_t i = 1; i <= rounds; i++) {
    if (joined[i] == 0) {
      CHECK_EQ(detached[i], 0);
    } else {
      CHECK(joined[i] == SWN_ESTALE_HANDLE || joined[i] == -EINVAL);
      CHECK_EQ(detached[i], 1);
    }
  }
  finish(rt);
  free(handles);
  free(joined);
  free(detached);
  return 0;
}
