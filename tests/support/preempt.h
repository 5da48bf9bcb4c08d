/* What the tests of preemption share: runtimes with a slice of their own, what they count, how a vthread loses its core. */
#ifndef SWN_TEST_PREEMPT_H
#define SWN_TEST_PREEMPT_H

#include "check.h"
#include <sys/syscall.h>

#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_SEQ_CST)
#define STORE(x, value) __atomic_store_n(&(x), (value), __ATOMIC_SEQ_CST)
#define ADD(x, n) __atomic_add_fetch(&(x), (n), __ATOMIC_SEQ_CST)

/* Zeros are the defaults. */
static inline swn_runtime_t *start_preempting(uint32_t cores, uint64_t slice_ns, uint32_t preemption,
                                              uint32_t carriers_max) {
  swn_runtime_options_t options;
  swn_runtime_t *rt = NULL;
  CHECK_OK(swn_runtime_options_init(&options, sizeof options));
  options.cores = cores;
  options.slice_ns = slice_ns;
  options.preemption = preemption;
  options.carriers_max = carriers_max;
  CHECK_OK(swn_runtime_start(&options, &rt));
  CHECK(rt != NULL);
  return rt;
}

/* Whether cores are certain to be handed over: not where membarrier(2) is refused, and not under Valgrind, where one thread
 * runs at a time and the monitor may come too late. */
static inline int hands_off(swn_runtime_t *rt) {
  swn_features_t features;
  CHECK_OK(swn_runtime_features(rt, &features, sizeof features));
  CHECK(features.preemption >= SWN_PREEMPT_COOPERATIVE && features.preemption <= SWN_PREEMPT_STOP);
  return features.preemption != SWN_PREEMPT_COOPERATIVE && !in_mode("valgrind");
}

/* For programs that are about nothing else: ends them where cores are not handed over. Only Valgrind may do that. */
static inline void need_hand_off(void) {
  swn_runtime_t *rt = start(1);
  int yes = hands_off(rt);
  finish(rt);
  if (!yes) {
    printf("left out: cores are not, or not certain to be, handed over here\n");
    _exit(0);
  }
}

static inline swn_stats_t stats_of(swn_runtime_t *rt) {
  swn_stats_t stats;
  CHECK_OK(swn_stats_read(rt, &stats, sizeof stats));
  return stats;
}

static inline uint32_t state_of(swn_vthread_t vt) {
  swn_vthread_context_t context;
  CHECK_OK(swn_vthread_context(vt, &context, sizeof context));
  CHECK_EQ(context.id, vt);
  CHECK_EQ(context.mounted, context.state == SWN_STATE_RUNNING);
  return context.state;
}

/* Computes until the calling vthread's core has been taken away. */
static inline void lose_core(void) {
  uint64_t end = soon();
  while (state_of(swn_self()) != SWN_STATE_PREEMPTED) CHECK(swn_now() < end);
}

/* Computes for so long. */
static inline void compute_for(uint64_t ns) {
  uint64_t end = swn_now() + ns;
  while (swn_now() < end) continue;
}

static inline int thread_id(void) { return (int)syscall(SYS_gettid); }

#endif
