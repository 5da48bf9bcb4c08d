/* Memory runs out under RLIMIT_AS: a spawn says so, or a join gives SWN_ENOSTACK; no vthread and no argument is lost,
 * and after the memory is back everything works again.
 * SWN_TEST: skip valgrind it needs the address space itself
 * SWN_TEST: skip asan its shadow is larger than any limit */
#include "check.h"
#include <sys/resource.h>

static swn_sem_t gate;
static int ran, destroyed;

static void *body(void *arg) {
  __atomic_add_fetch(&ran, 1, __ATOMIC_SEQ_CST);
  CHECK_OK(swn_sem_acquire(&gate, soon()));
  return arg;
}

static void destroy(void *arg) {
  CHECK(arg == &gate);
  __atomic_add_fetch(&destroyed, 1, __ATOMIC_SEQ_CST);
}

static uint64_t address_space(void) {
  unsigned long pages = 0;
  FILE *file = fopen("/proc/self/statm", "r");
  CHECK(file != NULL);
  CHECK_EQ(fscanf(file, "%lu", &pages), 1);
  fclose(file);
  return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static int flood(swn_runtime_t *rt) {
  enum { N = 3000 }; /* 3 GB of stacks */
  static swn_vthread_t vts[N];
  int spawned = 0, no_stack = 0;
  swn_spawn_options_t options;
  CHECK_OK(swn_spawn_options_init(&options, sizeof options));
  options.stack_bytes = 1 << 20;
  options.arg_destructor = destroy;
  ran = destroyed = 0;
  for (int i = 0; i < N; i++) {
    int status = swn_spawn(rt, body, &gate, &options, &vts[spawned]);
    if (status == 0)
      spawned++;
    else
      CHECK(status == -ENOMEM || status == -EAGAIN || status == SWN_ENOSTACK);
  }
  /* Each holds a stack and waits, or could not get one and is over. */
  AWAIT(__atomic_load_n(&ran, __ATOMIC_SEQ_CST) + __atomic_load_n(&destroyed, __ATOMIC_SEQ_CST) == spawned);
  CHECK_OK(swn_sem_release(&gate, (uint32_t)spawned));
  for (int i = 0; i < spawned; i++) {
    void *result = NULL;
    int status = swn_join(vts[i], &result, soon());
    if (status == SWN_ENOSTACK)
      no_stack++;
    else
      CHECK_OK(status);
    CHECK(status != 0 || result == &gate);
  }
  CHECK_EQ(ran + no_stack, spawned);
  AWAIT(__atomic_load_n(&destroyed, __ATOMIC_SEQ_CST) == spawned);
  for (int i = 0; i < no_stack; i++) CHECK_OK(swn_sem_acquire(&gate, soon()));
  CHECK_EQ(swn_sem_permits(&gate), 0);
  return no_stack + (N - spawned);
}

int main(void) {
  swn_runtime_t *rt = start(2);
  struct rlimit limit, none;
  swn_sleep_for(MS);
  CHECK_OK(getrlimit(RLIMIT_AS, &none));
  limit = none;
  limit.rlim_cur = address_space() + (600u << 20);
  CHECK_OK(setrlimit(RLIMIT_AS, &limit));
  int failed = flood(rt);
  CHECK(failed > 0); /* or the test tested nothing */
  swn_stats_t stats;
  CHECK_OK(swn_stats_read(rt, &stats, sizeof stats));
  CHECK(stats.stack_failures > 0);
  CHECK(flood(rt) > 0); /* the runtime bears it more than once */
  CHECK_OK(setrlimit(RLIMIT_AS, &none));
  CHECK_EQ(flood(rt), 0);
  finish(rt);
  return 0;
}
