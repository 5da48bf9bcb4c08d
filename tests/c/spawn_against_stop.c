/* Spawning from outside while the runtime is stopped: what was spawned with success has ended, and its argument was
 * destroyed once, when stop returns 0. */
#include "check.h"
#include <pthread.h>

static swn_runtime_t *rt;
static uint64_t spawned, destroyed;
static uint32_t batch;
static int started;

static void *body(void *arg) { return arg; }

static void count_destroyed(void *arg) {
  (void)arg;
  __atomic_add_fetch(&destroyed, 1, __ATOMIC_SEQ_CST);
}

static swn_spawn_options_t counted(void) {
  swn_spawn_options_t options;
  CHECK_OK(swn_spawn_options_init(&options, sizeof options));
  options.arg_destructor = count_destroyed;
  return options;
}

static void *spawn_one_batch(void *arg) {
  swn_spawn_options_t options = counted();
  __atomic_add_fetch(&started, 1, __ATOMIC_SEQ_CST);
  int64_t n = swn_spawn_batch(rt, body, NULL, batch, &options, NULL);
  CHECK(n == SWN_ESTOPPED || n == (int64_t)batch);
  if (n > 0) __atomic_add_fetch(&spawned, (uint64_t)n, __ATOMIC_SEQ_CST);
  return arg;
}

static void *spawn_until_refused(void *arg) {
  swn_spawn_options_t options = counted();
  __atomic_add_fetch(&started, 1, __ATOMIC_SEQ_CST);
  for (;;) {
    int status = swn_spawn(rt, body, NULL, &options, NULL);
    if (status == SWN_ESTOPPED) return arg;
    CHECK_OK(status);
    __atomic_add_fetch(&spawned, 1, __ATOMIC_SEQ_CST);
  }
}

static void race(void *(*spawner)(void *), int threads, uint32_t head_start_us) {
  pthread_t ids[3];
  spawned = destroyed = 0;
  started = 0;
  rt = start(2);
  for (int i = 0; i < threads; i++) CHECK_OK(pthread_create(&ids[i], NULL, spawner, NULL));
  while (__atomic_load_n(&started, __ATOMIC_SEQ_CST) == 0) {
  }
  usleep(head_start_us);
  CHECK_OK(swn_runtime_stop(rt, soon()));
  uint64_t ended = __atomic_load_n(&destroyed, __ATOMIC_SEQ_CST);
  for (int i = 0; i < threads; i++) CHECK_OK(pthread_join(ids[i], NULL));
  CHECK_EQ(ended, spawned);
  CHECK_EQ(destroyed, spawned);
  CHECK_OK(swn_runtime_destroy(rt));
}

int main(void) {
  batch = scaled(20000);
  for (uint32_t i = 0; i < scaled(100); i++) race(spawn_one_batch, 1, i * 37 % 300);
  for (uint32_t i = 0; i < scaled(100); i++) race(spawn_until_refused, 3, 200 + i * 37 % 500);
  return 0;
}
