/* Sections: blocking, pinned, not to be disturbed. What each promises, how they nest, and what is refused. */
#include "preempt.h"

static swn_runtime_t *rt;
static int flag, ready, hogs_end;
static uint64_t turns;
static swn_sem_t sem;

static const struct {
  int (*begin)(void);
  int (*end)(void);
} sections[] = {{swn_blocking_begin, swn_blocking_end},
                {swn_pin, swn_unpin},
                {swn_preempt_disable, swn_preempt_enable}};

static void *set_flag(void *arg) {
  STORE(flag, 1);
  return arg;
}

/* Gets every turn that it can. */
static void *take_turns(void *arg) {
  STORE(ready, 1);
  while (!LOAD(hogs_end)) {
    ADD(turns, 1);
    CHECK_OK(swn_yield());
  }
  return arg;
}

/* ---- nesting and what is refused ---------------------------------------------------------------------------------- */

static void outside_of_vthreads(void) {
  for (size_t i = 0; i < COUNT(sections); i++) {
    CHECK_EQ(sections[i].begin(), SWN_ENOTVTHREAD);
    CHECK_EQ(sections[i].end(), SWN_ENOTVTHREAD);
  }
}

static void *nest(void *arg) {
  for (size_t i = 0; i < COUNT(sections); i++) {
    CHECK_EQ(sections[i].end(), -EINVAL);
    for (int k = 0; k < 5; k++) CHECK_OK(sections[i].begin());
    CHECK_OK(swn_yield());
    for (size_t other = 0; other < COUNT(sections); other++)
      if (other != i) CHECK_EQ(sections[other].end(), -EINVAL);
    CHECK_OK(swn_sleep_for(MS / 10));
    for (int k = 0; k < 5; k++) CHECK_OK(sections[i].end());
    CHECK_EQ(sections[i].end(), -EINVAL);
  }
  /* In one another, ended in the order in which they began. */
  for (size_t i = 0; i < 9; i++) CHECK_OK(sections[i % 3].begin());
  CHECK_OK(swn_sleep_for(MS / 10));
  for (size_t i = 0; i < 9; i++) CHECK_OK(sections[i % 3].end());
  for (size_t i = 0; i < 3; i++) CHECK_EQ(sections[i].end(), -EINVAL);
  return arg;
}

static void *leave_open(void *n) {
  CHECK_OK(sections[(uintptr_t)n].begin());
  CHECK_OK(sections[(uintptr_t)n].begin());
  CHECK_OK(swn_yield());
  return n;
}

static void those_left_open_are_counted(void) {
  uint64_t before = stats_of(rt).sections_unbalanced;
  for (uintptr_t n = 0; n < COUNT(sections); n++) {
    for (int i = 0; i < 3; i++) CHECK(run_in(rt, leave_open, (void *)n) == (void *)n);
    CHECK_EQ(stats_of(rt).sections_unbalanced, before + 3 * (n + 1));
  }
  run_in(rt, nest, NULL); /* all is as before */
  CHECK_EQ(stats_of(rt).sections_unbalanced, before + 9);
}

/* ---- blocking ----------------------------------------------------------------------------------------------------- */

/* One core: the other runs while this one is blocked, in every mode, or never. */
static void *block(void *arg) {
  for (int i = 0; i < 10; i++) {
    STORE(flag, 0);
    swn_vthread_t vt = spawn(NULL, set_flag, NULL);
    CHECK_OK(swn_blocking_begin());
    while (!LOAD(flag)) usleep(100);
    CHECK_OK(swn_blocking_end());
    join(vt);
  }
  /* Everything may be called in it. */
  CHECK_OK(swn_blocking_begin());
  CHECK_EQ(swn_sem_acquire(&sem, swn_deadline_after(MS)), -ETIMEDOUT);
  STORE(flag, 0);
  join(spawn(NULL, set_flag, NULL));
  CHECK_EQ(LOAD(flag), 1);
  CHECK_OK(swn_sleep_for(MS / 10));
  CHECK_OK(swn_blocking_end());
  return arg;
}

static void who_blocks_lets_others_run(uint32_t preemption) {
  rt = start_preempting(1, 10 * SECOND, preemption, 0);
  uint64_t before = stats_of(rt).handoffs_announced;
  for (int i = 0; i < 5; i++) run_in(rt, block, NULL);
  CHECK_EQ(stats_of(rt).handoffs_announced - before, 5 * 11);
  swn_vthread_t vts[8];
  for (size_t i = 0; i < COUNT(vts); i++) vts[i] = spawn(rt, nest, NULL);
  for (size_t i = 0; i < COUNT(vts); i++) join(vts[i]);
  AWAIT(stats_of(rt).carriers_without_core == 0);
  those_left_open_are_counted();
  finish(rt);
}

/* ---- pinned ------------------------------------------------------------------------------------------------------- */

static __thread int of_thread;

/* The compiler may keep the address of a thread's variable across calls. */
static __attribute__((noinline)) void thread_set(int value) {
  __asm__ volatile("" ::: "memory");
  of_thread = value;
}

static __attribute__((noinline)) int thread_get(void) {
  __asm__ volatile("" ::: "memory");
  return of_thread;
}

static swn_sem_t ping;
static uint64_t moves;

static void *stay(void *arg) {
  int mine = (int)(uintptr_t)arg;
  for (uint32_t round = 0; round < scaled(20); round++) {
    CHECK_OK(swn_pin());
    int thread = thread_id();
    for (int i = 0; i < 12; i++) {
      int before = thread_get();
      thread_set(1000 * mine + i);
      CHECK_EQ(thread_get(), 1000 * mine + i);
      thread_set(before);
      switch (i % 6) {
        case 0: CHECK_OK(swn_yield()); break;
        case 1: CHECK_OK(swn_sleep_for(MS / 5)); break;
        case 2: CHECK_EQ(swn_sem_acquire(&sem, swn_deadline_after(MS / 5)), -ETIMEDOUT); break;
        case 3: CHECK_OK(swn_pin()); break;
        case 4: CHECK_OK(swn_unpin()); break;
        default: usleep(1500); break; /* its core may go, not its thread */
      }
      CHECK_EQ(thread_id(), thread);
    }
    CHECK_OK(swn_unpin());
    CHECK_OK(swn_sleep_for(MS / 5));
  }
  return arg;
}

/* Alone on a thread of its own: a value that it left there is there after any wait. */
static void *keep_value(void *arg) {
  CHECK_OK(swn_pin());
  int thread = thread_id(), left = thread_get();
  thread_set(-7);
  for (uint32_t i = 0; i < scaled(200); i++) {
    CHECK_OK(i % 3 ? swn_yield() : swn_sleep_for(MS / 10));
    CHECK_EQ(thread_get(), -7);
    CHECK_EQ(thread_id(), thread);
  }
  thread_set(left);
  CHECK_OK(swn_unpin());
  return arg;
}

/* Overruns its slice and comes back, so that cores change hands; counts how often it finds itself on another thread. */
static void *overrun(void *arg) {
  int thread = thread_id();
  while (!LOAD(hogs_end)) {
    compute_for(3 * MS);
    CHECK_OK(swn_yield());
    if (thread_id() != thread) ADD(moves, 1);
    thread = thread_id();
  }
  return arg;
}

static void pinned_ones_stay(uint32_t cores) {
  rt = start_preempting(cores, MS, 0, 0);
  swn_vthread_t vts[5], hogs[3];
  STORE(hogs_end, 0);
  STORE(moves, 0);
  for (size_t i = 0; i < COUNT(hogs); i++) hogs[i] = spawn(rt, overrun, NULL);
  for (uintptr_t i = 0; i < COUNT(vts); i++) vts[i] = spawn(rt, stay, (void *)(i + 1));
  for (size_t i = 0; i < COUNT(vts); i++) join(vts[i]);
  run_in(rt, keep_value, NULL);
  /* Not in vain: others did change threads. */
  if (hands_off(rt)) AWAIT(LOAD(moves) > 0);
  STORE(hogs_end, 1);
  for (size_t i = 0; i < COUNT(hogs); i++) join(hogs[i]);
  if (hands_off(rt)) AWAIT(stats_of(rt).handoffs_bound > 0 || cores > 1);
  CHECK_EQ(stats_of(rt).sections_unbalanced, 0);
  finish(rt);
}

/* ---- not to be disturbed ------------------------------------------------------------------------------------------ */

/* The slice is so long that only calls could give the turn away. */
static void *call_a_lot(void *arg) {
  AWAIT(LOAD(ready));
  CHECK_OK(swn_yield());
  CHECK_OK(swn_preempt_disable());
  CHECK_OK(swn_preempt_disable());
  uint64_t before = LOAD(turns);
  char byte = 'x';
  int fds[2];
  CHECK_OK(swn_pipe(fds));
  for (int i = 0; i < 1000; i++) {
    CHECK_EQ(swn_write(fds[1], &byte, 1, soon()), 1);
    CHECK_EQ(swn_read(fds[0], &byte, 1, soon()), 1);
  }
  CHECK_OK(swn_preempt_enable());
  CHECK_EQ(LOAD(turns), before);
  CHECK_OK(swn_yield()); /* what asks for it still gets it */
  CHECK(LOAD(turns) > before);
  for (int i = 0; i < 1000; i++) CHECK_EQ(swn_write(fds[1], &byte, 1, soon()), 1);
  before = LOAD(turns);
  CHECK_OK(swn_preempt_enable()); /* here the turn is over */
  CHECK(LOAD(turns) > before);
  CHECK_OK(swn_close(fds[0]));
  CHECK_OK(swn_close(fds[1]));
  return arg;
}

static void calls_do_not_disturb(uint32_t preemption) {
  rt = start_preempting(1, 10 * SECOND, preemption, 0);
  STORE(hogs_end, 0);
  STORE(ready, 0);
  swn_vthread_t other = spawn(rt, take_turns, NULL);
  run_in(rt, call_a_lot, NULL);
  STORE(hogs_end, 1);
  join(other);
  CHECK_EQ(stats_of(rt).preempted + stats_of(rt).handoffs_forced, 0);
  finish(rt);
}

enum { SLICE_MS = 5 };

static void *keep_core(void *arg) {
  swn_vthread_context_t context;
  CHECK_OK(swn_yield());
  CHECK_OK(swn_preempt_disable());
  CHECK_OK(swn_vthread_context(swn_self(), &context, sizeof context));
  lose_core();
  /* It does go, but late; and time that the machine lost makes it only later. */
  CHECK(swn_now() - context.last_resume_ns >= 10 * SLICE_MS * MS - MS);
  CHECK_OK(swn_preempt_enable());
  /* Blocked ones keep it as long. */
  uint64_t waited;
  int fds[2];
  CHECK_OK(swn_pipe(fds));
  CHECK_OK(swn_preempt_disable());
  do {
    CHECK_OK(swn_yield());
    CHECK_OK(swn_vthread_context(swn_self(), &context, sizeof context));
    usleep(SLICE_MS * 3000);
    waited = swn_now() - context.last_resume_ns;
    if (waited < 10 * SLICE_MS * MS - MS) CHECK_EQ(state_of(swn_self()), SWN_STATE_RUNNING);
  } while (waited >= 10 * SLICE_MS * MS - MS); /* the machine was elsewhere: once more */
  CHECK_OK(swn_preempt_enable());
  CHECK_OK(swn_close(fds[0]));
  CHECK_OK(swn_close(fds[1]));
  return arg;
}

static void it_keeps_its_core_for_ten_slices(uint32_t cores) {
  rt = start_preempting(cores, SLICE_MS * MS, 0, 0);
  STORE(hogs_end, 0);
  swn_vthread_t hog = spawn(rt, take_turns, NULL);
  for (uint64_t i = 0; i < 3; i++) {
    run_in(rt, keep_core, NULL);
    CHECK(stats_of(rt).handoffs_forced > i);
  }
  STORE(hogs_end, 1);
  join(hog);
  AWAIT(stats_of(rt).carriers_without_core == 0);
  finish(rt);
}

int main(void) {
  CHECK_OK(swn_sem_init(&sem, 0));
  CHECK_OK(swn_sem_init(&ping, 0));
  outside_of_vthreads();
  who_blocks_lets_others_run(SWN_PREEMPT_COOPERATIVE);
  who_blocks_lets_others_run(SWN_PREEMPT_AUTO);
  for (uint32_t cores = 1; cores <= 2; cores++) pinned_ones_stay(cores);
  calls_do_not_disturb(SWN_PREEMPT_COOPERATIVE);
  rt = start(1);
  int yes = hands_off(rt);
  finish(rt);
  if (!yes) return 0;
  calls_do_not_disturb(SWN_PREEMPT_HANDOFF);
  for (uint32_t cores = 1; cores <= 2; cores++) it_keeps_its_core_for_ten_slices(cores);
  return 0;
}
