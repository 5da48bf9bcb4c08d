/* Everything at once while cores are handed over: the allocator, stdio, the dynamic linker, thread-local variables, errno,
 * blocked readers, I/O, timers, sections. SWN_TEST_SECONDS: how long, 3 by default; shared by the modes of preemption.
 *
 * SWN_TEST: skip valgrind it takes switches on carriers that come and go for function calls, and cores are not certain to be handed over */
#include "preempt.h"
#include <dlfcn.h>
#include <pthread.h>
#include <sys/socket.h>

enum { CARRIERS_MAX = 60, EACH = 3 };
static swn_runtime_t *rt;
static int end, may_block;
static FILE *null_file;
static swn_sem_t shared_sem;
static uint64_t rounds[16];

static uint32_t next_random(uint32_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 17;
  *state ^= *state << 5;
  return *state;
}

/* Mostly short, sometimes several slices. */
static uint64_t some_time(uint32_t *random) {
  uint32_t r = next_random(random);
  return r % 8 == 0 ? r / 8 % (4 * MS) : r / 8 % (MS / 5);
}

/* A call that gives the turn away, of any kind. */
static void call(uint32_t *random) {
  switch (next_random(random) % 4) {
    case 0: CHECK_OK(swn_yield()); break;
    case 1: CHECK_OK(swn_sleep_for(*random / 4 % MS)); break;
    case 2:
      CHECK_OK(swn_sem_acquire(&shared_sem, soon()));
      CHECK_OK(swn_sem_release(&shared_sem, 1));
      break;
    default: break;
  }
}

/* ---- what they do ------------------------------------------------------------------------------------------------- */

static void allocate(uint32_t *random) {
  unsigned char *memory[32];
  size_t len[32];
  for (int i = 0; i < 32; i++) {
    len[i] = next_random(random) % 3000 + 1;
    CHECK((memory[i] = (unsigned char *)malloc(len[i])) != NULL);
    memset(memory[i], i, len[i]);
    if (i == 16) call(random);
  }
  compute_for(some_time(random));
  for (int i = 0; i < 32; i++) {
    CHECK(memory[i][0] == i && memory[i][len[i] - 1] == i);
    free(memory[i]);
  }
}

static void print(uint32_t *random) {
  for (int i = 0; i < 200; i++) CHECK(fprintf(null_file, "%d %s\n", i, "some text") > 10);
  (void)random;
}

static void load(uint32_t *random) {
  void *library = dlopen("libm.so.6", RTLD_NOW);
  CHECK(library != NULL);
  double (*root)(double) = (double (*)(double))(uintptr_t)dlsym(library, "sqrt");
  CHECK(root != NULL && root(49.0) > 6.99 && root(49.0) < 7.01);
  if (next_random(random) % 2) call(random);
  CHECK_OK(dlclose(library));
}

static __thread uint32_t of_thread;

/* The compiler may keep these addresses across calls: each use happens in a function of its own. */
static __attribute__((noinline)) void thread_set(uint32_t value) {
  __asm__ volatile("" ::: "memory");
  of_thread = value;
}

static __attribute__((noinline)) uint32_t thread_get(void) {
  __asm__ volatile("" ::: "memory");
  return of_thread;
}

static __attribute__((noinline)) void errno_set(int value) {
  __asm__ volatile("" ::: "memory");
  errno = value;
}

static __attribute__((noinline)) int errno_get(void) {
  __asm__ volatile("" ::: "memory");
  return errno;
}

static void check_thread(uint32_t *random) {
  uint32_t value = next_random(random);
  int thread = thread_id();
  errno_set(1 + (int)(value % 100));
  thread_set(value);
  compute_for(some_time(random));
  /* No call was made, so nothing else ran on this thread, whatever became of its core. */
  CHECK_EQ(thread_get(), value);
  CHECK_EQ(thread_id(), thread);
  CHECK_EQ(errno_get(), 1 + (int)(value % 100));
  call(random);
  CHECK_EQ(errno_get(), 1 + (int)(value % 100));
}

static void pin(uint32_t *random) {
  CHECK_OK(swn_pin());
  int thread = thread_id();
  for (int i = 0; i < 3; i++) {
    call(random);
    compute_for(some_time(random));
    CHECK_EQ(thread_id(), thread);
  }
  CHECK_OK(swn_unpin());
}

static void use_sections(uint32_t *random) {
  CHECK_OK(swn_preempt_disable());
  compute_for(some_time(random));
  CHECK_OK(swn_preempt_enable());
  CHECK_OK(swn_blocking_begin());
  usleep(next_random(random) % 1000);
  CHECK_OK(swn_blocking_end());
}

static void read_blocked(uint32_t *random) {
  static int pipes[2], made;
  if (!may_block) return call(random);
  static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  CHECK_OK(pthread_mutex_lock(&lock));
  if (!made) CHECK_OK(pipe(pipes));
  made = 1;
  CHECK_OK(pthread_mutex_unlock(&lock));
  char byte = 'x';
  if (next_random(random) % 3 == 0) usleep(2000);
  /* As many bytes as readers, each written before by another or itself. */
  CHECK_EQ(write(pipes[1], &byte, 1), 1);
  CHECK_EQ(read(pipes[0], &byte, 1), 1);
}

static void sleep_blocked(uint32_t *random) {
  if (may_block)
    usleep(next_random(random) % 5000);
  else
    call(random);
}

static void *echo(void *arg) {
  int fd = *(int *)arg;
  char bytes[256];
  for (int64_t n; (n = swn_read(fd, bytes, sizeof bytes, soon())) > 0;) {
    if (bytes[0] % 5 == 0) compute_for(MS / 2 * (uint64_t)(bytes[0] % 4));
    CHECK_EQ(swn_write_all(fd, bytes, (size_t)n, soon()), n);
  }
  return arg;
}

static void talk(uint32_t *random) {
  int fds[2];
  char out[256], in[256];
  CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds));
  swn_vthread_t vt = spawn(NULL, echo, &fds[1]);
  for (int i = 0; i < 10; i++) {
    size_t len = next_random(random) % sizeof out + 1, got = 0;
    memset(out, (int)(next_random(random) % 128), len);
    CHECK_EQ(swn_write_all(fds[0], out, len, soon()), len);
    if (i % 4 == 0) compute_for(some_time(random));
    while (got < len) {
      int64_t n = swn_read(fds[0], in + got, len - got, soon());
      CHECK(n > 0);
      got += (size_t)n;
    }
    CHECK(memcmp(in, out, len) == 0);
  }
  CHECK_EQ(swn_read(fds[0], in, 1, swn_deadline_after(*random % MS)), -ETIMEDOUT);
  CHECK_OK(swn_close(fds[0]));
  CHECK(join(vt) == &fds[1]);
  CHECK_OK(swn_close(fds[1]));
}

static void time_out(uint32_t *random) {
  uint64_t deadline = swn_deadline_after(some_time(random));
  swn_sem_t never;
  CHECK_OK(swn_sem_init(&never, 0));
  CHECK_OK(swn_sleep_until(deadline));
  CHECK(swn_now() >= deadline);
  compute_for(some_time(random));
  CHECK_EQ(swn_sem_acquire(&never, swn_deadline_after(some_time(random))), -ETIMEDOUT);
}

static void *overrun(void *arg) {
  compute_for(3 * MS / 2);
  return arg;
}

static void spawn_some(uint32_t *random) {
  swn_vthread_t vts[3];
  CHECK_OK(swn_spawn(NULL, overrun, NULL, NULL, NULL));
  for (int i = 0; i < 3; i++) vts[i] = spawn(NULL, overrun, &vts[i]);
  if (*random % 2) compute_for(some_time(random));
  for (int i = 0; i < 3; i++) CHECK(join(vts[i]) == &vts[i]);
}

static void (*const kinds[])(uint32_t *) = {allocate, print,        load, check_thread, pin,        use_sections,
                                            read_blocked, sleep_blocked, talk, time_out,     spawn_some};

static void *go_round(void *n) {
  uint32_t random = (uint32_t)(uintptr_t)n * 2654435761u + 1;
  uintptr_t kind = (uintptr_t)n % COUNT(kinds);
  while (!LOAD(end)) {
    kinds[kind](&random);
    ADD(rounds[kind], 1);
    if (next_random(&random) % 4 == 0) call(&random);
  }
  return n;
}

static void all_at_once(uint32_t cores, uint32_t preemption, uint64_t for_ns) {
  swn_vthread_t vts[EACH * COUNT(kinds)];
  int threads = count_entries("/proc/self/task");
  rt = start_preempting(cores, MS, preemption, CARRIERS_MAX);
  may_block = hands_off(rt);
  STORE(end, 0);
  memset(rounds, 0, sizeof rounds);
  for (uintptr_t i = 0; i < COUNT(vts); i++) vts[i] = spawn(rt, go_round, (void *)(i + 1));
  uint64_t until = swn_now() + for_ns;
  do {
    swn_stats_t stats = stats_of(rt);
    CHECK(stats.carriers <= CARRIERS_MAX);
    swn_sleep_for(MS);
  } while (swn_now() < until);
  for (size_t kind = 0; kind < COUNT(kinds); kind++) AWAIT(LOAD(rounds[kind]) > 0);
  swn_stats_t stats = stats_of(rt);
  STORE(end, 1);
  for (uintptr_t i = 0; i < COUNT(vts); i++) CHECK(join(vts[i]) == (void *)(i + 1));
  AWAIT(stats_of(rt).live == 0);
  if (may_block) CHECK(stats.preempted > 0 && stats.handoffs_blocked > 0 && stats.rejoins > 0);
  CHECK(stats.handoffs_announced > 0);
  CHECK_EQ(stats.sections_unbalanced, 0);
  CHECK_EQ(swn_sem_permits(&shared_sem), 2);
  AWAIT(stats_of(rt).carriers_without_core == 0);
  if (may_block) AWAIT(stats_of(rt).carriers <= cores + 4);
  finish(rt);
  CHECK_EQ(count_entries("/proc/self/task"), threads);
}

int main(void) {
  static const uint32_t modes[] = {SWN_PREEMPT_HANDOFF, SWN_PREEMPT_STOP};
  const char *text = getenv("SWN_TEST_SECONDS");
  uint64_t each_ns = (text && atoi(text) > 0 ? (uint64_t)atoi(text) : 3) * SECOND / 4;
  CHECK((null_file = fopen("/dev/null", "w")) != NULL);
  CHECK_OK(swn_sem_init(&shared_sem, 2));
  for (size_t mode = 0; mode < COUNT(modes); mode++)
    for (uint32_t cores = 1; cores <= 2; cores++) all_at_once(cores, modes[mode], each_ns);
  CHECK_OK(fclose(null_file));
  return 0;
}
