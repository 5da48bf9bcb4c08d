/* Vthreads that become ready in one look at the timers are spread: the core that wakes them all tells another one.
 * Each of them computes, without a call that switches, until it sees that two cores run them. */
#include "check.h"

enum { SLEEPERS = 8 };
static uint64_t due;
static uint32_t seen; /* bit c: one of them computed on core c */

struct sleeper {
  swn_vthread_t vt;
  int where; /* 0: not known yet, 1: sleeps on core 0, 2: began elsewhere and ends */
};

static uint32_t my_core(void) {
  swn_vthread_context_t context;
  CHECK_OK(swn_vthread_context(swn_self(), &context, sizeof context));
  return context.core;
}

static void *compute(void *arg) {
  struct sleeper *sleeper = (struct sleeper *)arg;
  int where = my_core() == 0 ? 1 : 2;
  __atomic_store_n(&sleeper->where, where, __ATOMIC_SEQ_CST);
  if (where == 2) return NULL;
  CHECK_OK(swn_sleep_until(due)); /* in the wheel of core 0, as all the others */
  __atomic_or_fetch(&seen, UINT32_C(1) << my_core(), __ATOMIC_SEQ_CST);
  uint64_t limit = soon();
  while (__builtin_popcount(__atomic_load_n(&seen, __ATOMIC_RELAXED)) < 2) CHECK(swn_now() < limit);
  return NULL;
}

static void once(void) {
  struct sleeper sleepers[SLEEPERS];
  swn_spawn_options_t options;
  CHECK_OK(swn_spawn_options_init(&options, sizeof options));
  options.flags = SWN_SPAWN_PREFER_CORE;
  swn_runtime_t *rt = start(2);
  seen = 0;
  /* If that is too short they become ready one by one, and the round shows less. */
  due = swn_deadline_after(300 * MS);
  for (int i = 0; i < SLEEPERS; i++) {
    int *where = &sleepers[i].where;
    do {
      *where = 0;
      CHECK_OK(swn_spawn(rt, compute, &sleepers[i], &options, &sleepers[i].vt));
      AWAIT(__atomic_load_n(where, __ATOMIC_SEQ_CST) != 0);
      if (*where == 2) join(sleepers[i].vt);
    } while (*where == 2);
  }
  for (int i = 0; i < SLEEPERS; i++) join(sleepers[i].vt);
  finish(rt);
}

int main(void) {
  for (uint32_t i = 0; i < scaled(5); i++) once();
  return 0;
}
