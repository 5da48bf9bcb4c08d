/* Code that never gives anything up: on one core, a vthread computes without an end in sight and another one sits in
 * read(2). Under a cooperative runtime nothing else would ever run again; here both lose their core, and a third vthread
 * keeps time. They go on meanwhile, as OS threads of their own. */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <swiftnet.h>
#include <unistd.h>

static atomic_bool done;
static int quiet[2]; /* nobody writes to this pipe until the end */

static void *compute(void *arg) {
  uint64_t rounds = 0;
  while (!atomic_load(&done)) rounds++; /* no call of swn_*, no system call */
  printf("computed %s\n", rounds > 1000000 ? "all the time" : "hardly at all");
  return arg;
}

static void *block(void *arg) {
  char byte;
  ssize_t got = read(quiet[0], &byte, 1); /* the plain system call: the OS thread blocks */
  printf("read(2) returned %zd\n", got);
  return arg;
}

static void *tick(void *arg) {
  uint64_t worst = 0;
  for (int i = 0; i < 500; i++) {
    uint64_t due = swn_now() + 1000000;
    swn_sleep_until(due);
    uint64_t late = swn_now() - due;
    if (late > worst) worst = late;
  }
  printf("500 sleeps of 1 ms, the latest woke %" PRIu64 " us late\n", worst / 1000);
  atomic_store(&done, true);
  if (write(quiet[1], "x", 1) != 1) return NULL;
  return arg;
}

int main(void) {
  swn_runtime_t *rt;
  swn_runtime_options_t options;
  swn_stats_t stats;
  swn_vthread_t vts[3];
  if (pipe(quiet) != 0) return 1;
  swn_runtime_options_init(&options, sizeof options);
  options.cores = 1;
  if (swn_runtime_start(&options, &rt) != 0) return 1;
  if (swn_spawn(rt, compute, NULL, NULL, &vts[0]) != 0) return 1;
  if (swn_spawn(rt, block, NULL, NULL, &vts[1]) != 0) return 1;
  if (swn_spawn(rt, tick, NULL, NULL, &vts[2]) != 0) return 1;
  for (int i = 2; i >= 0; i--) swn_join(vts[i], NULL, SWN_FOREVER);

  swn_stats_read(rt, &stats, sizeof stats);
  printf("cores taken: %" PRIu64 " for computing, %" PRIu64 " for blocking\n", stats.preempted, stats.handoffs_blocked);
  swn_runtime_stop(rt, SWN_FOREVER);
  return swn_runtime_destroy(rt);
}
