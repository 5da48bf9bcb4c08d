/* What a vthread that computes without a break keeps its core from gets done all the same while another core is idle: the
 * vthreads that it woke, timers, I/O, and vthreads that were only to prefer that core. Each computing vthread here goes on
 * until the others have run, so that it never ends if nobody looks after its core. */
#include "check.h"

static swn_runtime_t *rt;
static swn_sem_t sem;
static int pipes[2];
static int ran, waiting;
static uint64_t due;

static void compute_until_ran(int wanted) {
  uint64_t limit = soon();
  while (__atomic_load_n(&ran, __ATOMIC_RELAXED) < wanted) CHECK(swn_now() < limit);
}

static void *note_run(void *arg) {
  __atomic_add_fetch(&ran, 1, __ATOMIC_SEQ_CST);
  return arg;
}

static swn_vthread_t spawn_on_core_0(swn_vthread_fn fn, uint32_t how) {
  swn_spawn_options_t options;
  swn_vthread_t vt;
  CHECK_OK(swn_spawn_options_init(&options, sizeof options));
  options.flags = how;
  CHECK_OK(swn_spawn(rt, fn, NULL, &options, &vt));
  return vt;
}

/* Until both cores sleep, and whoever looks after busy ones has gone to sleep as well. */
static void rest(void) { usleep(60 * 1000); }

static void *acquirer(void *arg) {
  __atomic_add_fetch(&waiting, 1, __ATOMIC_SEQ_CST);
  CHECK_OK(swn_sem_acquire(&sem, soon()));
  return note_run(arg);
}

static void *wake_one_and_compute(void *arg) {
  CHECK_OK(swn_sem_release(&sem, 1));
  compute_until_ran(1);
  return arg;
}

static void *wake_two_and_compute(void *arg) {
  CHECK_OK(swn_sem_release(&sem, 2));
  compute_until_ran(2);
  return arg;
}

static void what_it_woke(int n, swn_vthread_fn waker) {
  swn_vthread_t vts[2];
  ran = waiting = 0;
  for (int i = 0; i < n; i++) vts[i] = spawn(rt, acquirer, NULL);
  AWAIT(__atomic_load_n(&waiting, __ATOMIC_SEQ_CST) == n);
  rest();
  run_in(rt, waker, NULL);
  for (int i = 0; i < n; i++) join(vts[i]);
}

static void *sleeper(void *arg) {
  __atomic_store_n(&waiting, 1, __ATOMIC_SEQ_CST);
  CHECK_OK(swn_sleep_until(due));
  return note_run(arg);
}

static void *just_compute(void *arg) {
  __atomic_store_n(&waiting, 2, __ATOMIC_SEQ_CST);
  compute_until_ran(1);
  return arg;
}

static void its_timers(void) {
  ran = waiting = 0;
  due = swn_deadline_after(200 * MS);
  swn_vthread_t vt = spawn_on_core_0(sleeper, SWN_SPAWN_PREFER_CORE);
  AWAIT(__atomic_load_n(&waiting, __ATOMIC_SEQ_CST) == 1);
  rest();
  swn_vthread_t computing = spawn_on_core_0(just_compute, SWN_SPAWN_FIXED_CORE);
  join(vt);
  join(computing);
}

static void *reader(void *arg) {
  char byte;
  __atomic_store_n(&waiting, 1, __ATOMIC_SEQ_CST);
  CHECK_EQ(swn_read(pipes[0], &byte, 1, soon()), 1);
  return note_run(arg);
}

static void *write_and_compute(void *arg) {
  CHECK_EQ(write(pipes[1], "x", 1), 1);
  compute_until_ran(1);
  return arg;
}

static void its_io(void) {
  ran = waiting = 0;
  CHECK_OK(swn_pipe(pipes));
  swn_vthread_t vt = spawn_on_core_0(reader, SWN_SPAWN_PREFER_CORE);
  AWAIT(__atomic_load_n(&waiting, __ATOMIC_SEQ_CST) == 1);
  rest();
  join(spawn_on_core_0(write_and_compute, SWN_SPAWN_FIXED_CORE));
  join(vt);
  CHECK_OK(swn_close(pipes[0]));
  CHECK_OK(swn_close(pipes[1]));
}

static void who_preferred_it(void) {
  ran = waiting = 0;
  rest();
  swn_vthread_t computing = spawn_on_core_0(just_compute, SWN_SPAWN_FIXED_CORE);
  AWAIT(__atomic_load_n(&waiting, __ATOMIC_SEQ_CST) == 2);
  rest();
  join(spawn_on_core_0(note_run, SWN_SPAWN_PREFER_CORE));
  join(computing);
}

int main(void) {
  rt = start(2);
  for (uint32_t i = 0; i < scaled(4); i++) {
    what_it_woke(1, wake_one_and_compute);
    what_it_woke(2, wake_two_and_compute);
    its_timers();
    its_io();
    who_preferred_it();
  }
  finish(rt);
  return 0;
}
