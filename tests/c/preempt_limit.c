/* At the limit of carriers: cores stay where they are, which is counted, nothing hangs and nothing is lost. The same where
 * the system gives no more threads, and where it does not let a lowered thread be raised again.
 *
 * SWN_TEST: skip valgrind one thread runs at a time there, so cores are not certain to be handed over */
#include "preempt.h"
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

enum { BLOCKERS = 6 };
static swn_runtime_t *rt;
static int pipes[2];
static int end;
static uint32_t begun, ended;

static void *block(void *arg) {
  char byte;
  ADD(begun, 1);
  CHECK_EQ(read(pipes[0], &byte, 1), 1);
  ADD(ended, 1);
  return arg;
}

static void *compute(void *arg) {
  ADD(begun, 1);
  while (!LOAD(end)) continue;
  CHECK_OK(swn_yield());
  ADD(ended, 1);
  return arg;
}

static void *announce(void *arg) {
  char byte;
  ADD(begun, 1);
  CHECK_OK(swn_blocking_begin());
  CHECK_EQ(read(pipes[0], &byte, 1), 1);
  CHECK_OK(swn_blocking_end());
  ADD(ended, 1);
  return arg;
}

static void *nothing(void *arg) { return arg; }

static void *wait_and_work(void *arg) {
  for (int i = 0; i < 20; i++) {
    CHECK_OK(swn_sleep_for(MS / 10));
    compute_for(MS / 10);
  }
  return arg;
}

static swn_stats_t looked(uint32_t limit) {
  swn_stats_t stats = stats_of(rt);
  CHECK(stats.carriers <= limit);
  CHECK(stats.carriers_without_core + stats.carriers_spare <= limit);
  return stats;
}

/* Until the limit holds a core where it is; then everything ends. Without a limit: none but the system's. */
static void hold_at(uint32_t limit, swn_vthread_fn fn) {
  swn_vthread_t vts[BLOCKERS + 20];
  STORE(begun, 0);
  STORE(ended, 0);
  STORE(end, 0);
  uint64_t denied = looked(limit).handoffs_denied;
  for (int i = 0; i < BLOCKERS; i++) vts[i] = spawn(rt, fn, &vts[i]);
  for (int i = BLOCKERS; i < BLOCKERS + 20; i++) vts[i] = spawn(rt, wait_and_work, &vts[i]);
  AWAIT(looked(limit).handoffs_denied > denied);
  CHECK(LOAD(begun) < BLOCKERS);
  CHECK_EQ(LOAD(ended), 0);
  STORE(end, 1);
  for (int i = 0; i < BLOCKERS; i++) CHECK_EQ(write(pipes[1], "x", 1), 1);
  for (size_t i = 0; i < COUNT(vts); i++) CHECK(join(vts[i]) == &vts[i]);
  CHECK_EQ(LOAD(ended), BLOCKERS);
  char bytes[BLOCKERS];
  if (fn == compute) CHECK_EQ(read(pipes[0], bytes, sizeof bytes), BLOCKERS);
  AWAIT(looked(limit).carriers_without_core == 0);
  CHECK_EQ(looked(limit).live, 0);
}

static void all_at_the_limit(uint32_t limit) {
  static const swn_vthread_fn fns[] = {block, compute, announce};
  for (int round = 0; round < 3; round++)
    for (size_t i = 0; i < COUNT(fns); i++) hold_at(limit, fns[i]);
  for (uint32_t i = 0; i < scaled(200); i++) CHECK(run_in(rt, nothing, &rt) == &rt);
}

static void here(void) {
  for (uint32_t limit = 1; limit <= 3; limit++) {
    rt = start_preempting(1, MS, 0, limit);
    all_at_the_limit(limit);
    finish(rt);
  }
  rt = start_preempting(2, MS, 0, 3);
  all_at_the_limit(3);
  finish(rt);
}

/* ---- as a user who may do little ---------------------------------------------------------------------------------- */

/* A user of whom nothing else runs. Asked of a child, because there is no way back. */
static void in_child(void (*body)(void)) {
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    uid_t user = 1000000 + (uid_t)getpid();
    if (setresuid(user, user, user) != 0) _exit(77);
    CHECK_OK(prctl(PR_SET_DUMPABLE, 1));
    body();
    _exit(0);
  }
  int status;
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77)
    printf("left out: the user cannot be changed here\n");
  else
    CHECK_EQ(WEXITSTATUS(status), 0);
}

static int count_threads(void) { return count_entries("/proc/self/task"); }

static void without_threads(void) {
  struct rlimit limit = {5, 5}; /* this one, a core, the monitor, two spares */
  CHECK_OK(setrlimit(RLIMIT_NPROC, &limit));
  rt = start_preempting(1, MS, 0, 100);
  all_at_the_limit(3);
  finish(rt);
  CHECK_EQ(count_threads(), 1);
  /* By default the limit is found out. */
  rt = start_preempting(1, MS, 0, 0);
  all_at_the_limit(3);
  finish(rt);
}

/* Lowered threads cannot be raised: they end instead, and others come. */
static void without_privilege(void) {
  rt = start_preempting(1, MS, 0, 0);
  for (uint32_t round = 0; round < 3 + scaled(30); round++) {
    swn_vthread_t vts[4];
    STORE(begun, 0);
    STORE(end, 0);
    for (size_t i = 0; i < COUNT(vts); i++) vts[i] = spawn(rt, compute, &vts[i]);
    AWAIT(LOAD(begun) == COUNT(vts)); /* on one core: each has lost it to the next but the last */
    STORE(end, 1);
    for (size_t i = 0; i < COUNT(vts); i++) CHECK(join(vts[i]) == &vts[i]);
    AWAIT(stats_of(rt).carriers_without_core == 0);
  }
  CHECK(stats_of(rt).carriers_lowered >= 9);
  AWAIT(stats_of(rt).carriers <= 8);
  AWAIT(count_threads() <= 10);
  finish(rt);
  CHECK_EQ(count_threads(), 1);
}

int main(void) {
  CHECK_OK(pipe(pipes));
  if (getuid() == 0) {
    in_child(need_hand_off);
    in_child(without_threads);
    in_child(without_privilege);
  } else {
    printf("left out: needs root, to become a user of whom nothing else runs\n");
  }
  need_hand_off();
  here();
  if (getuid() != 0) without_privilege();
  return 0;
}
