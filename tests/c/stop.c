/* Stopping: everything ends; waits are cancelled at half of the time; who did not end is named, and a second stop
 * succeeds; from inside it is a deadlock; destroying too early is refused; nothing can be spawned afterwards. */
#include "check.h"

static swn_runtime_t *rt;
static swn_sem_t never;
static int pipes[2];
static int cancelled, release_stubborn, ran;

static void *wait_for_ever(void *how) {
  char byte;
  int64_t status = 0;
  switch ((uintptr_t)how) {
    case 0: status = swn_sleep_until(SWN_FOREVER); break;
    case 1: status = swn_sem_acquire(&never, SWN_FOREVER); break;
    case 2: status = swn_read(pipes[0], &byte, 1, SWN_FOREVER); break;
    case 3: status = swn_poll(pipes[0], SWN_POLLIN, SWN_FOREVER); break;
    case 4: {
      swn_vthread_t inner;
      status = swn_spawn(NULL, wait_for_ever, (void *)0, NULL, &inner);
      if (status == 0) status = swn_join(inner, NULL, SWN_FOREVER);
      if (status == SWN_ESTOPPED) status = -ECANCELED; /* it began too late to spawn */
      /* Either the inner one ended first, by being cancelled, or this join was cancelled. */
      if (status == 0) status = -ECANCELED;
      break;
    }
    default: status = swn_sleep_for(SWN_FOREVER); break;
  }
  CHECK_EQ(status, -ECANCELED);
  /* So is every further wait. */
  CHECK_EQ(swn_sem_acquire(&never, SWN_FOREVER), -ECANCELED);
  CHECK_EQ(swn_sleep_until(SWN_FOREVER), -ECANCELED);
  __atomic_add_fetch(&cancelled, 1, __ATOMIC_SEQ_CST);
  return how;
}

static void waits_return_cancelled(void) {
  rt = start(2);
  CHECK_OK(swn_pipe(pipes));
  for (uintptr_t i = 0; i < 60; i++) CHECK_OK(swn_spawn(rt, wait_for_ever, (void *)(i % 6), NULL, NULL));
  swn_vthread_t kept = spawn(rt, wait_for_ever, (void *)5);
  CHECK_OK(swn_runtime_stop(rt, swn_deadline_after(SECOND)));
  CHECK(cancelled >= 61);
  CHECK_EQ(swn_spawn(rt, wait_for_ever, NULL, NULL, NULL), SWN_ESTOPPED);
  CHECK_EQ(swn_spawn_batch(rt, wait_for_ever, NULL, 3, NULL, NULL), SWN_ESTOPPED);
  CHECK_OK(swn_runtime_stop(rt, soon())); /* again: nothing to do */
  CHECK_OK(swn_runtime_destroy(rt));
  CHECK_EQ(swn_join(kept, NULL, soon()), SWN_ESTALE_HANDLE);
  CHECK_EQ(swn_runtime_stop(rt, soon()), SWN_ESTALE_HANDLE);
  CHECK_EQ(swn_runtime_destroy(rt), SWN_ESTALE_HANDLE);
  /* The pipe outlives the runtime that waited on it. */
  CHECK_EQ(swn_write(pipes[1], "x", 1, soon()), 1);
  char byte;
  CHECK_EQ(swn_read(pipes[0], &byte, 1, soon()), 1);
  CHECK_OK(swn_close(pipes[0]));
  CHECK_OK(swn_close(pipes[1]));
}

static void *work(void *arg) {
  for (int i = 0; i < 10; i++) CHECK_OK(swn_yield());
  __atomic_add_fetch(&ran, 1, __ATOMIC_SEQ_CST);
  return arg;
}

static void what_can_end_ends(void) {
  rt = start(2);
  for (int i = 0; i < 1000; i++) CHECK_OK(swn_spawn(rt, work, NULL, NULL, NULL));
  CHECK_OK(swn_runtime_stop(rt, soon()));
  CHECK_EQ(ran, 1000);
  CHECK_OK(swn_runtime_destroy(rt));
}

static void *stubborn(void *arg) {
  while (!__atomic_load_n(&release_stubborn, __ATOMIC_RELAXED)) usleep(100);
  return arg;
}

static int note_name(void *arg, const swn_vthread_context_t *vt) {
  if (strcmp(vt->name, "stubborn") == 0) ++*(int *)arg;
  return 0;
}

static void who_does_not_end_is_named(void) {
  swn_spawn_options_t options;
  rt = start(2);
  CHECK_OK(swn_spawn_options_init(&options, sizeof options));
  options.name = "stubborn";
  CHECK_OK(swn_spawn(rt, stubborn, NULL, &options, NULL));
  CHECK_EQ(swn_runtime_destroy(rt), -EBUSY); /* not stopped */
  CHECK_EQ(swn_runtime_stop(rt, swn_deadline_after(50 * MS)), -ETIMEDOUT);
  CHECK_EQ(swn_runtime_destroy(rt), -EBUSY); /* not empty */
  int named = 0;
  CHECK_EQ(swn_vthread_foreach(rt, note_name, &named), 1);
  CHECK_EQ(named, 1);
  CHECK_EQ(swn_runtime_stop(rt, 0), -ETIMEDOUT);
  CHECK_EQ(swn_spawn(rt, work, NULL, NULL, NULL), SWN_ESTOPPED);
  __atomic_store_n(&release_stubborn, 1, __ATOMIC_RELAXED);
  finish(rt);
}

static void *stop_from_inside(void *arg) {
  CHECK_EQ(swn_runtime_stop(rt, soon()), -EDEADLK);
  CHECK_EQ(swn_runtime_stop(swn_runtime_current(), 0), -EDEADLK);
  CHECK(swn_runtime_destroy(rt) == -EBUSY);
  return arg;
}

static int count_destroyed;
static void destroyed(void *arg) {
  (void)arg;
  __atomic_add_fetch(&count_destroyed, 1, __ATOMIC_SEQ_CST);
}

/* Stopped while thousands are still queued: each argument is destroyed once, whether its vthread ran or not. */
static void no_argument_is_lost(void) {
  swn_spawn_options_t options;
  CHECK_OK(swn_spawn_options_init(&options, sizeof options));
  options.arg_destructor = destroyed;
  uint32_t n = scaled(5000);
  rt = start(1);
  for (uint32_t i = 0; i < n; i++) CHECK_OK(swn_spawn(rt, work, &options, &options, NULL));
  finish(rt);
  CHECK_EQ(count_destroyed, n);
}

static void nothing_is_left(void) {
  int threads = count_entries("/proc/self/task"), files = count_entries("/proc/self/fd");
  for (int i = 0; i < 20; i++) {
    rt = start(2);
    for (int k = 0; k < 10; k++) CHECK_OK(swn_spawn(rt, work, NULL, NULL, NULL));
    finish(rt);
    CHECK_EQ(count_entries("/proc/self/fd"), files);
    /* A joined thread may be listed until the kernel has buried it. */
    AWAIT(count_entries("/proc/self/task") <= threads);
  }
}

int main(void) {
  waits_return_cancelled();
  what_can_end_ends();
  who_does_not_end_is_named();
  rt = start(2);
  run_in(rt, stop_from_inside, NULL);
  finish(rt);
  no_argument_is_lost();
  nothing_is_left();
  return 0;
}
