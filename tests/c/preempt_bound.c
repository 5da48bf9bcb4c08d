/* Bound vthreads that wait, yield, overrun and block beside others that do the same: none ever runs on another OS thread,
 * and all end.
 *
 * SWN_TEST: skip valgrind it takes switches on carriers that come and go for function calls, and cores are not certain to be handed over */
#include "preempt.h"

static swn_runtime_t *rt;
static uint32_t cores;
static swn_sem_t sem;
static uint64_t elsewhere;
static int sockets[2];
static uint32_t bound_end;

static uint32_t next_random(uint32_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 17;
  *state ^= *state << 5;
  return *state;
}

static void do_something(uint32_t *random) {
  char byte;
  switch (next_random(random) % 9) {
    case 0: CHECK_OK(swn_yield()); break;
    case 1: CHECK_OK(swn_sleep_for(*random / 16 % (2 * MS))); break;
    case 2: {
      int status = swn_sem_acquire(&sem, swn_deadline_after(*random / 16 % MS));
      CHECK(status == 0 || status == -ETIMEDOUT);
      if (status == 0) CHECK_OK(swn_sem_release(&sem, 1));
      break;
    }
    case 3: compute_for(*random / 16 % (4 * MS)); break;
    case 4: usleep(*random / 16 % 4000); break;
    case 5: CHECK_EQ(swn_read(sockets[0], &byte, 1, swn_deadline_after(MS / 2)), -ETIMEDOUT); break;
    case 6:
      CHECK_OK(swn_blocking_begin());
      usleep(100);
      CHECK_OK(swn_blocking_end());
      break;
    case 7: {
      CHECK_OK(swn_preempt_disable());
      compute_for(*random / 16 % (2 * MS));
      CHECK_OK(swn_preempt_enable());
      break;
    }
    default: for (int i = 0; i < 50; i++) CHECK_OK(swn_yield());
  }
}

static void *stay(void *arg) {
  uint32_t random = (uint32_t)(uintptr_t)arg * 2654435761u + 1;
  int thread = thread_id();
  for (uint32_t i = 0; i < 5 + scaled(50); i++) {
    do_something(&random);
    CHECK_EQ(thread_id(), thread);
    if (next_random(&random) % 16 == 0) { /* a pin in it changes nothing */
      CHECK_OK(swn_pin());
      CHECK_OK(swn_yield());
      CHECK_OK(swn_unpin());
    }
  }
  ADD(bound_end, 1);
  return arg;
}

static void *roam(void *arg) {
  uint32_t random = (uint32_t)(uintptr_t)arg * 40503u + 7;
  int thread = thread_id();
  for (uint32_t i = 0; i < 5 + scaled(50); i++) {
    do_something(&random);
    if (thread_id() != thread) ADD(elsewhere, 1);
    thread = thread_id();
  }
  return arg;
}

static void all_at_once(uint32_t flags) {
  swn_spawn_options_t options;
  swn_vthread_t vts[24];
  CHECK_OK(swn_spawn_options_init(&options, sizeof options));
  STORE(bound_end, 0);
  for (uintptr_t i = 0; i < COUNT(vts); i++) {
    options.flags = i % 3 == 0 ? 0 : flags;
    options.core = i % cores;
    CHECK_OK(swn_spawn(rt, i % 3 == 0 ? roam : stay, (void *)(i + 1), &options, &vts[i]));
  }
  for (uintptr_t i = 0; i < COUNT(vts); i++) CHECK(join(vts[i]) == (void *)(i + 1));
  CHECK_EQ(bound_end, COUNT(vts) * 2 / 3);
}

int main(void) {
  CHECK_OK(swn_sem_init(&sem, 1));
  CHECK_OK(swn_pipe(sockets));
  for (cores = 1; cores <= 2; cores++) {
    rt = start_preempting(cores, MS, 0, 0);
    STORE(elsewhere, 0);
    all_at_once(SWN_SPAWN_BOUND);
    all_at_once(SWN_SPAWN_BOUND | SWN_SPAWN_FIXED_CORE);
    all_at_once(SWN_SPAWN_BOUND | SWN_SPAWN_PREFER_CORE);
    swn_stats_t stats = stats_of(rt);
    CHECK(stats.handoffs_announced > 0);
    CHECK(LOAD(elsewhere) > 0); /* threads did change */
    CHECK(stats.handoffs_bound > 0);
    if (hands_off(rt)) CHECK(stats.preempted + stats.handoffs_blocked > 0);
    CHECK_EQ(stats.live, 0);
    AWAIT(stats_of(rt).carriers_without_core == 0);
    finish(rt);
  }
  CHECK_OK(swn_close(sockets[0]));
  CHECK_OK(swn_close(sockets[1]));
  CHECK_EQ(count_entries("/proc/self/task"), 1);
  return 0;
}
