/* Waits in completion form that are opened while the runtime is stopped: each completion is called once, and a permit
 * that it did not get is still there. */
#include "check.h"

enum { PERMITS = 10000000 };
static swn_sem_t sem;
static uint64_t opened, granted, cancelled;
static int running;

static void completed(void *op, int status) {
  free(op); /* ours again */
  if (status != 0) CHECK_EQ(status, -ECANCELED);
  __atomic_add_fetch(status == 0 ? &granted : &cancelled, 1, __ATOMIC_SEQ_CST);
}

static void *opener(void *arg) {
  __atomic_store_n(&running, 1, __ATOMIC_SEQ_CST);
  for (;;) {
    swn_completion_t *op = (swn_completion_t *)malloc(sizeof *op);
    CHECK(op != NULL);
    int status = swn_sem_acquire_then(&sem, NULL, op, completed, op);
    if (status != 0) {
      CHECK_EQ(status, SWN_ESTOPPED);
      free(op);
      return arg;
    }
    opened++;
    CHECK_OK(swn_yield());
  }
}

static void race(uint32_t head_start_us) {
  CHECK_OK(swn_sem_init(&sem, PERMITS));
  opened = granted = cancelled = 0;
  running = 0;
  swn_runtime_t *rt = start(1);
  CHECK_OK(swn_spawn(rt, opener, NULL, NULL, NULL));
  while (!__atomic_load_n(&running, __ATOMIC_SEQ_CST)) {
  }
  usleep(head_start_us);
  int status = swn_runtime_stop(rt, 0); /* cancels at once */
  CHECK(status == 0 || status == -ETIMEDOUT);
  finish(rt);
  CHECK_EQ(granted + cancelled, opened);
  CHECK_EQ(swn_sem_permits(&sem), PERMITS - (int64_t)granted);
}

int main(void) {
  for (uint32_t i = 0; i < scaled(600); i++) race(i * 37 % 200);
  return 0;
}
