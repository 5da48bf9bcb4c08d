/* Spawning: join and its result, detach, batches, names, stack sizes, cores, argument destructors, nesting. */
#include "check.h"
#include <pthread.h>

static swn_runtime_t *rt;
static int ended;     /* vthreads that ran to their end */
static int destroyed; /* arguments given to their destructor */

static void *echo(void *arg) { return arg; }

static void *count(void *arg) {
  __atomic_add_fetch(&ended, 1, __ATOMIC_SEQ_CST);
  return arg;
}

static void destroy_arg(void *arg) {
  CHECK(arg == &destroyed);
  CHECK(swn_self() != 0);
  __atomic_add_fetch(&destroyed, 1, __ATOMIC_SEQ_CST);
}

static void join_gives_the_result_once(void) {
  int value;
  swn_vthread_t vt = spawn(rt, echo, &value);
  void *result = NULL;
  CHECK_OK(swn_join(vt, &result, soon()));
  CHECK(result == &value);
  CHECK_EQ(swn_join(vt, &result, soon()), SWN_ESTALE_HANDLE);
  CHECK_EQ(swn_detach(vt), SWN_ESTALE_HANDLE);
  /* The result is optional. */
  CHECK_OK(swn_join(spawn(rt, echo, &value), NULL, soon()));
}

static void *wait_on(void *sem) {
  CHECK_OK(swn_sem_acquire((swn_sem_t *)sem, soon()));
  return sem;
}

static void join_has_a_deadline_and_can_be_repeated(void) {
  swn_sem_t sem = {{0}};
  swn_vthread_t vt = spawn(rt, wait_on, &sem);
  void *result = NULL;
  CHECK_EQ(swn_join(vt, &result, 0), -ETIMEDOUT);
  CHECK_EQ(swn_join(vt, &result, swn_deadline_after(5 * MS)), -ETIMEDOUT);
  CHECK(result == NULL);
  CHECK_OK(swn_sem_release(&sem, 1));
  CHECK(join(vt) == &sem);
}

static void detached_vthreads_run_and_are_forgotten(void) {
  __atomic_store_n(&ended, 0, __ATOMIC_SEQ_CST);
  swn_vthread_t vt = spawn(rt, count, NULL);
  /* It may have ended already: its handle lives until it is joined or detached. */
  CHECK_OK(swn_detach(vt));
  CHECK_OK(swn_spawn(rt, count, NULL, NULL, NULL));
  swn_spawn_options_t options;
  CHECK_OK(swn_spawn_options_init(&options, sizeof options));
  options.flags = SWN_SPAWN_DETACHED;
  CHECK_OK(swn_spawn(rt, count, NULL, &options, &vt));
  AWAIT(__atomic_load_n(&ended, __ATOMIC_SEQ_CST) == 3);
}

static void a_detached_vthread_cannot_be_joined(void) {
  swn_sem_t sem = {{0}};
  swn_vthread_t vt = spawn(rt, wait_on, &sem);
  CHECK_OK(swn_detach(vt));
  int status = swn_join(vt, NULL, soon());
  CHECK(status == -EINVAL || status == SWN_ESTALE_HANDLE);
  CHECK_OK(swn_sem_release(&sem, 1));
}

static void *join_self(void *arg) {
  (void)arg;
  CHECK_EQ(swn_join(swn_self(), NULL, soon()), -EDEADLK);
  return NULL;
}

static void *join_other(void *vt) {
  CHECK_OK(swn_join(*(swn_vthread_t *)vt, NULL, soon()));
  return NULL;
}

static void one_joiner_at_a_time(void) {
  run_in(rt, join_self, NULL);
  swn_sem_t sem = {{0}};
  swn_vthread_t vt = spawn(rt, wait_on, &sem);
  swn_vthread_t joiner = spawn(rt, join_other, &vt);
  swn_vthread_context_t context;
  do {
    CHECK_OK(swn_vthread_context(joiner, &context, sizeof context));
  } while (context.state != SWN_STATE_WAITING || context.reason != SWN_REASON_JOIN);
  CHECK_EQ(swn_join(vt, NULL, soon()), -EINVAL);
  CHECK_OK(swn_sem_release(&sem, 1));
  join(joiner);
}

static void batch_spawns_all_with_their_arguments(void) {
  enum { N = 1000 };
  static int values[N];
  static void *args[N];
  static swn_vthread_t vts[N];
  for (int i = 0; i < N; i++) args[i] = &values[i];
  CHECK_EQ(swn_spawn_batch(rt, echo, args, N, NULL, vts), N);
  for (int i = 0; i < N; i++) CHECK(join(vts[i]) == &values[i]);

  __atomic_store_n(&ended, 0, __ATOMIC_SEQ_CST);
  CHECK_EQ(swn_spawn_batch(rt, count, NULL, N, NULL, NULL), N);
  AWAIT(__atomic_load_n(&ended, __ATOMIC_SEQ_CST) == N);
  CHECK_EQ(swn_spawn_batch(rt, count, NULL, 0, NULL, NULL), 0);
}

static void *own_name(void *expected) {
  swn_vthread_context_t context;
  CHECK_OK(swn_vthread_context(swn_self(), &context, sizeof context));
  CHECK(strcmp(context.name, (const char *)expected) == 0);
  return NULL;
}

static void names_are_copied_and_cut(void) {
  char name[64] = "a-name";
  swn_spawn_options_t options;
  swn_vthread_t vt;
  CHECK_OK(swn_spawn_options_init(&options, sizeof options));
  options.name = name;
  CHECK_OK(swn_spawn(rt, own_name, (void *)"a-name", &options, &vt));
  memset(name, 'x', sizeof name - 1);
  join(vt);
  char cut[sizeof ((swn_vthread_context_t *)0)->name];
  memset(cut, 'x', sizeof cut);
  cut[sizeof cut - 1] = 0;
  CHECK_OK(swn_spawn(rt, own_name, cut, &options, &vt));
  join(vt);
  options.name = NULL;
  CHECK_OK(swn_spawn(rt, own_name, (void *)"", &options, &vt));
  join(vt);
}

static void *use_stack(void *bytes) {
  size_t n = (size_t)(uintptr_t)bytes;
  volatile char *memory = (volatile char *)__builtin_alloca(n);
  for (size_t i = 0; i < n; i += 512) memory[i] = 1;
  swn_vthread_context_t context;
  CHECK_OK(swn_vthread_context(swn_self(), &context, sizeof context));
  CHECK(context.stack_bytes >= n);
  return NULL;
}

static void stacks_are_as_large_as_asked(void) {
  static const size_t sizes[] = {16 << 10, 17 << 10, 64 << 10, 256 << 10, 1 << 20};
  swn_spawn_options_t options;
  CHECK_OK(swn_spawn_options_init(&options, sizeof options));
  for (size_t i = 0; i < COUNT(sizes); i++) {
    swn_vthread_t vt;
    options.stack_bytes = sizes[i];
    CHECK_OK(swn_spawn(rt, use_stack, (void *)(uintptr_t)(sizes[i] * 3 / 4 - 8192 / (i + 1)), &options, &vt));
    join(vt);
  }
}

static void destructors_run_once(void) {
  swn_spawn_options_t options;
  CHECK_OK(swn_spawn_options_init(&options, sizeof options));
  options.arg_destructor = destroy_arg;
  for (int i = 0; i < 100; i++) CHECK_OK(swn_spawn(rt, echo, &destroyed, &options, NULL));
  AWAIT(__atomic_load_n(&destroyed, __ATOMIC_SEQ_CST) == 100);
  swn_vthread_t vt;
  CHECK_OK(swn_spawn(rt, echo, &destroyed, &options, &vt));
  join(vt);
  CHECK_EQ(__atomic_load_n(&destroyed, __ATOMIC_SEQ_CST), 101); /* before the join returns */
}

static void *tree(void *depth) {
  uintptr_t d = (uintptr_t)depth;
  if (d == 0) return (void *)1;
  swn_vthread_t left = spawn(NULL, tree, (void *)(d - 1));
  swn_vthread_t right = spawn(NULL, tree, (void *)(d - 1));
  return (void *)((uintptr_t)join(left) + (uintptr_t)join(right));
}

static void *stay_on_core(void *core) {
  for (int i = 0; i < 200; i++) {
    swn_vthread_context_t context;
    CHECK_OK(swn_vthread_context(swn_self(), &context, sizeof context));
    CHECK_EQ(context.core, (uintptr_t)core);
    CHECK_OK(i % 20 ? swn_yield() : swn_sleep_for(MS / 10));
  }
  return NULL;
}

static void *stay_on_thread(void *arg) {
  pthread_t self = pthread_self();
  for (int i = 0; i < 200; i++) {
    CHECK(pthread_equal(self, pthread_self()));
    CHECK_OK(i % 20 ? swn_yield() : swn_sleep_for(MS / 10));
  }
  return arg;
}

static void cores_and_threads_are_kept(void) {
  swn_spawn_options_t options;
  swn_vthread_t vts[40];
  CHECK_OK(swn_spawn_options_init(&options, sizeof options));
  for (size_t i = 0; i < COUNT(vts); i++) {
    options.core = i % 2;
    options.flags = i < 20 ? SWN_SPAWN_FIXED_CORE : SWN_SPAWN_BOUND;
    swn_vthread_fn fn = i < 20 ? stay_on_core : stay_on_thread;
    if (i >= 20) options.core = 0;
    CHECK_OK(swn_spawn(rt, fn, (void *)(uintptr_t)options.core, &options, &vts[i]));
  }
  for (size_t i = 0; i < COUNT(vts); i++) join(vts[i]);

  options.flags = SWN_SPAWN_PREFER_CORE;
  options.core = 1;
  CHECK_OK(swn_spawn(rt, echo, &options, &options, &vts[0]));
  CHECK(join(vts[0]) == &options);
}

static void *check_self(void *arg) {
  CHECK(swn_self() != 0);
  CHECK(swn_runtime_current() == rt);
  return arg;
}

int main(void) {
  CHECK_EQ(swn_self(), 0);
  CHECK(swn_runtime_current() == NULL);
  rt = start(2);
  run_in(rt, check_self, NULL);
  join_gives_the_result_once();
  join_has_a_deadline_and_can_be_repeated();
  detached_vthreads_run_and_are_forgotten();
  a_detached_vthread_cannot_be_joined();
  one_joiner_at_a_time();
  batch_spawns_all_with_their_arguments();
  names_are_copied_and_cut();
  stacks_are_as_large_as_asked();
  destructors_run_once();
  CHECK_EQ((uintptr_t)run_in(rt, tree, (void *)10), 1024);
  cores_and_threads_are_kept();
  finish(rt);
  return 0;
}
