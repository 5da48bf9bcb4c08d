/* Time: deadlines saturate, sleeps are never short, many sleepers all wake, OS threads may sleep too. */
#include "check.h"

static int awake;

static void *sleep_some(void *arg) {
  uint64_t until = swn_deadline_after((uintptr_t)arg * MS / 10);
  CHECK_OK(swn_sleep_until(until));
  CHECK(swn_now() >= until);
  __atomic_add_fetch(&awake, 1, __ATOMIC_SEQ_CST);
  return NULL;
}

static void *past_and_zero(void *arg) {
  CHECK_OK(swn_sleep_until(0));
  CHECK_OK(swn_sleep_until(swn_now() - 1));
  CHECK_OK(swn_sleep_for(0));
  CHECK_OK(swn_sleep_for(1));
  uint64_t before = swn_now();
  CHECK_OK(swn_sleep_for(3 * MS));
  CHECK(swn_now() - before >= 3 * MS);
  return arg;
}

static void deadlines_saturate(void) {
  uint64_t before = swn_now();
  uint64_t deadline = swn_deadline_after(SECOND);
  CHECK(deadline >= before + SECOND && deadline <= swn_now() + SECOND);
  CHECK(swn_deadline_after(SWN_FOREVER) == SWN_FOREVER);
  CHECK(swn_deadline_after(SWN_FOREVER - 5) == SWN_FOREVER);
  CHECK(swn_now() >= before);
}

int main(void) {
  deadlines_saturate();
  past_and_zero(NULL); /* an OS thread */
  swn_runtime_t *rt = start(2);
  run_in(rt, past_and_zero, NULL);

  uint32_t n = scaled(10000);
  for (uint32_t i = 0; i < n; i++) CHECK_OK(swn_spawn(rt, sleep_some, (void *)(uintptr_t)(i % 1000), NULL, NULL));
  AWAIT(__atomic_load_n(&awake, __ATOMIC_SEQ_CST) == (int)n);
  finish(rt);
  return 0;
}
