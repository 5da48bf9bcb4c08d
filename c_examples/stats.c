/* Watching a runtime from outside while it works: counters, delays, and a list of its vthreads with what each waits
 * for. */
#include <inttypes.h>
#include <stdio.h>
#include <swiftnet.h>

static swn_sem_t gate; /* all zero: a semaphore of 0 permits */

static void *wait_at_gate(void *arg) {
  swn_sem_acquire(&gate, SWN_FOREVER);
  return arg;
}

static void *work(void *arg) {
  for (int i = 0; i < 50; i++) {
    volatile uint64_t sum = 0;
    for (uint64_t k = 0; k < 20000; k++) sum += k;
    if (i % 10 == 0) swn_sleep_for(1000000);
    else swn_yield();
  }
  return arg;
}

static const char *state_name(uint32_t state) {
  static const char *const names[] = {"created", "ready", "running", "waiting", "preempted", "done"};
  return state < 6 ? names[state] : "?";
}

static const char *reason_name(uint32_t reason) {
  static const char *const names[] = {"", "io", "timer", "lock", "channel", "join", "offload"};
  return reason < 7 ? names[reason] : "?";
}

static int print_vthread(void *arg, const swn_vthread_context_t *vt) {
  (void)arg;
  printf("  %016" PRIx64 "  %-8s %-7s %-7s core %u  %" PRIu64 " us\n", vt->id, vt->name, state_name(vt->state),
         reason_name(vt->reason), vt->core, vt->cpu_time_us);
  return 0; /* go on */
}

static void print_text(void *arg, const char *text, size_t len) { fwrite(text, 1, len, (FILE *)arg); }

int main(void) {
  swn_runtime_t *rt;
  swn_vthread_t vts[100], waiter;
  swn_spawn_options_t options;
  swn_stats_t stats;
  if (swn_runtime_start(NULL, &rt) != 0) return 1;
  swn_spawn_options_init(&options, sizeof options);
  options.name = "waiter";
  if (swn_spawn(rt, wait_at_gate, NULL, &options, &waiter) != 0) return 1;
  if (swn_spawn_batch(rt, work, NULL, 100, NULL, vts) != 100) return 1;
  for (int i = 0; i < 100; i++) swn_join(vts[i], NULL, SWN_FOREVER);

  if (swn_stats_read(rt, &stats, sizeof stats) != 0) return 1;
  printf("spawned %" PRIu64 ", completed %" PRIu64 ", live %" PRIu64 "\n", stats.spawned, stats.completed, stats.live);
  printf("mounted %" PRIu64 " times, %" PRIu64 " after a wait; %" PRIu64 " yields, %" PRIu64 " stolen\n",
         stats.scheduled, stats.resumed, stats.yields, stats.stolen);
  printf("time in the run queue: p50 %" PRIu64 " ns, p99 %" PRIu64 " ns\n", stats.run_delay.p50_ns,
         stats.run_delay.p99_ns);
  printf("still here:\n");
  swn_vthread_foreach(rt, print_vthread, NULL);
  printf("as JSON:\n");
  swn_stats_json(rt, print_text, stdout);
  printf("\n");

  swn_sem_release(&gate, 1);
  swn_join(waiter, NULL, SWN_FOREVER);
  swn_runtime_stop(rt, SWN_FOREVER);
  return swn_runtime_destroy(rt);
}
