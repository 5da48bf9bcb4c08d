/* Vthreads that compute without ever calling the library keep nobody from running: what ends them is set by a vthread
 * that must run beside them. They are shown and counted as preempted, all make progress, and rejoin at their next call.
 *
 * SWN_TEST: skip valgrind one thread runs at a time there, so cores are not certain to be handed over */
#include "preempt.h"

enum { HOGS = 5 };
static swn_runtime_t *rt;
static int release;
static FILE *null_file;

static struct hog {
  uint64_t turns;
  swn_vthread_t vt;
} hogs[HOGS];

static void spin(uint64_t n) { (void)n; }

static void allocate(uint64_t n) {
  char *memory = (char *)malloc(n * 37 % 5000 + 1);
  CHECK(memory != NULL);
  memory[0] = (char)n;
  free(memory);
}

static void format(uint64_t n) {
  char text[64];
  CHECK(snprintf(text, sizeof text, "%llu %f", (unsigned long long)n, (double)n) > 2);
}

static void print(uint64_t n) { CHECK(fprintf(null_file, "%llu\n", (unsigned long long)n) > 1); }

static void (*const kinds[])(uint64_t) = {spin, allocate, format, print};
static void (*kind)(uint64_t);

static void *compute(void *arg) {
  struct hog *hog = (struct hog *)arg;
  while (!LOAD(release)) kind(ADD(hog->turns, 1));
  CHECK_OK(swn_yield()); /* the first call for long: here it comes back to the queues */
  return arg;
}

static int count_preempted(void *arg, const swn_vthread_context_t *vt) {
  if (vt->state == SWN_STATE_PREEMPTED && strcmp(vt->name, "hog") == 0) {
    CHECK_EQ(vt->mounted, 0);
    ++*(int *)arg;
  }
  return 0;
}

/* Hogs that the list shows as preempted. */
static int listed(void) {
  int found = 0;
  CHECK(swn_vthread_foreach(rt, count_preempted, &found) >= HOGS);
  return found;
}

static int all_preempted(void) {
  for (int i = 0; i < HOGS; i++)
    if (state_of(hogs[i].vt) != SWN_STATE_PREEMPTED) return 0;
  return 1;
}

static int all_begun(void) {
  for (int i = 0; i < HOGS; i++)
    if (LOAD(hogs[i].turns) == 0) return 0;
  return 1;
}

/* The vthread that ends the others. */
static void *set_release(void *arg) {
  AWAIT(all_begun());
  AWAIT(all_preempted());
  AWAIT(listed() == HOGS);
  /* Each goes on, although there are more of them than CPUs and they have no core. */
  for (int i = 0; i < HOGS; i++) {
    uint64_t seen = LOAD(hogs[i].turns);
    AWAIT(LOAD(hogs[i].turns) > seen + 100);
  }
  CHECK_EQ(LOAD(release), 0);
  STORE(release, 1);
  return arg;
}

static void hogs_hold_nobody_up(void) {
  swn_spawn_options_t options;
  CHECK_OK(swn_spawn_options_init(&options, sizeof options));
  options.name = "hog";
  swn_stats_t before = stats_of(rt);
  STORE(release, 0);
  for (int i = 0; i < HOGS; i++) {
    STORE(hogs[i].turns, 0);
    CHECK_OK(swn_spawn(rt, compute, &hogs[i], &options, &hogs[i].vt));
  }
  /* None ends before the setter has run, so for the setter to run the cores must have changed hands. */
  swn_vthread_t setter = spawn(rt, set_release, NULL);
  AWAIT(stats_of(rt).carriers_without_core >= HOGS || LOAD(release));
  join(setter);
  for (int i = 0; i < HOGS; i++) CHECK(join(hogs[i].vt) == &hogs[i]);
  swn_stats_t after = stats_of(rt);
  /* Those that print wait for the stream's lock at times, which is being blocked. */
  if (kind != print) CHECK(after.preempted > before.preempted);
  CHECK(after.preempted + after.handoffs_blocked - before.preempted - before.handoffs_blocked >= HOGS);
  CHECK(after.rejoins - before.rejoins >= HOGS);
  CHECK(after.carriers_lowered > 0);
  AWAIT(stats_of(rt).carriers_without_core == 0);
  CHECK_EQ(stats_of(rt).live, 0);
}

/* More than there are spares made ahead; they end where they are, without a call. */
static uint32_t begun;

static void *compute_and_end(void *arg) {
  ADD(begun, 1);
  while (!LOAD(release)) continue;
  return arg;
}

static void many_hogs_begin(void) {
  uint32_t n = 10 + scaled(50);
  swn_vthread_t vts[60];
  STORE(begun, 0);
  STORE(release, 0);
  for (uint32_t i = 0; i < n; i++) vts[i] = spawn(rt, compute_and_end, &vts[i]);
  AWAIT(LOAD(begun) == n);
  CHECK(stats_of(rt).carriers >= n);
  STORE(release, 1);
  for (uint32_t i = 0; i < n; i++) CHECK(join(vts[i]) == &vts[i]);
  AWAIT(stats_of(rt).carriers_without_core == 0);
  AWAIT(stats_of(rt).carriers <= 8);
}

int main(void) {
  need_hand_off();
  CHECK((null_file = fopen("/dev/null", "w")) != NULL);
  for (uint32_t cores = 1; cores <= 2; cores++) {
    rt = start(cores);
    for (size_t k = 0; k < COUNT(kinds); k++) {
      kind = kinds[k];
      hogs_hold_nobody_up();
    }
    finish(rt);
    rt = start_preempting(cores, MS, 0, 0);
    many_hogs_begin();
    finish(rt);
  }
  CHECK_OK(fclose(null_file));
  return 0;
}
