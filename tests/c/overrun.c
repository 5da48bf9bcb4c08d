/* The host is told of mounts that took too long: by a vthread that computed and then made a call, with frames of that
 * call; by one that ended without any; and not of short ones. */
#include "check.h"
#include <time.h>

#define TOLD_MAX 64

static swn_runtime_t *rt;
static swn_overrun_t told[TOLD_MAX];
static void *frame[TOLD_MAX];
static int count;

static void on_overrun(void *arg, const swn_overrun_t *overrun) {
  CHECK(arg == &count);
  CHECK_EQ(overrun->size, sizeof *overrun);
  CHECK(swn_self() != 0); /* host code runs in a vthread */
  CHECK_OK(swn_yield());  /* and may wait */
  int at = __atomic_load_n(&count, __ATOMIC_SEQ_CST);
  if (at == TOLD_MAX) return;
  told[at] = *overrun;
  frame[at] = overrun->frame_count > 0 ? overrun->frames[overrun->frame_count - 1] : NULL;
  __atomic_store_n(&count, at + 1, __ATOMIC_SEQ_CST);
}

/* CPU time and not wall time: who shares this machine makes no overrun. */
static void compute(uint64_t ns) {
  struct timespec begin, now;
  CHECK_EQ(clock_gettime(CLOCK_MONOTONIC, &begin), 0);
  do CHECK_EQ(clock_gettime(CLOCK_MONOTONIC, &now), 0);
  while ((uint64_t)(now.tv_sec - begin.tv_sec) * SECOND + (uint64_t)now.tv_nsec - (uint64_t)begin.tv_nsec < ns);
}

static void *compute_and_call(void *arg) {
  compute(60 * MS);
  CHECK_OK(swn_sleep_for(MS));
  return arg;
}

static void *compute_and_end(void *arg) {
  compute(60 * MS);
  return arg;
}

static const swn_overrun_t *told_of(swn_vthread_t vt, int *at) {
  for (int i = 0; i < __atomic_load_n(&count, __ATOMIC_SEQ_CST); i++) {
    if (told[i].id != vt) continue;
    *at = i;
    return &told[i];
  }
  return NULL;
}

int main(void) {
  swn_runtime_options_t options;
  CHECK_OK(swn_runtime_options_init(&options, sizeof options));
  options.cores = 1;
  options.on_overrun = on_overrun;
  options.overrun_arg = &count;
  options.overrun_ns = 10;
  CHECK_EQ(swn_runtime_start(&options, &rt), -ERANGE);
  options.overrun_ns = 50 * MS;
  CHECK_OK(swn_runtime_start(&options, &rt));

  swn_spawn_options_t spawn_options;
  CHECK_OK(swn_spawn_options_init(&spawn_options, sizeof spawn_options));
  spawn_options.name = "greedy";
  swn_vthread_t calls, ends;
  CHECK_OK(swn_spawn(rt, compute_and_call, NULL, &spawn_options, &calls));
  CHECK_OK(swn_spawn(rt, compute_and_end, NULL, NULL, &ends));
  join(calls);
  join(ends);
  int at = 0;
  AWAIT(told_of(calls, &at) != NULL);
  CHECK(told[at].ran_ns >= 50 * MS);
  CHECK(strcmp(told[at].name, "greedy") == 0);
  CHECK(told[at].entry == (const void *)compute_and_call);
  CHECK_EQ(told[at].core, 0);
  swn_features_t features;
  CHECK_OK(swn_runtime_features(rt, &features, sizeof features));
  /* Under Valgrind only one thread runs at a time, and the monitor may come too late. */
  if (features.preemption == SWN_PREEMPT_HANDOFF && !in_mode("valgrind")) CHECK(told[at].frame_count > 2 && frame[at] != NULL);
  AWAIT(told_of(ends, &at) != NULL);
  CHECK(told[at].ran_ns >= 50 * MS);
  CHECK_EQ(told[at].frame_count, 0);
  CHECK(told[at].entry == (const void *)compute_and_end);
  finish(rt);
  return 0;
}
