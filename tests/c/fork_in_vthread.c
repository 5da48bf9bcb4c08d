/* fork in a vthread: in the child its calls are refused, and when its function returns the child ends with status 0. No
 * other vthread runs there, and the parent's events and timers stay the parent's.
 * SWN_TEST: skip asan the child of a threaded process may find the sanitizer's locks taken */
#include "check.h"
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

struct shared {
  uint64_t ticks;     /* of the ticker, in the parent */
  uint64_t strangers; /* mounts of anyone but the forker, in a child */
  uint64_t refused;   /* children in which every call of the forker was refused */
};

static struct shared *shared;
static pid_t parent, child;
static int pipes[2], silent[2], stop;

static void note(void) {
  __atomic_add_fetch(getpid() == parent ? &shared->ticks : &shared->strangers, 1, __ATOMIC_SEQ_CST);
}

static void *ticker(void *arg) {
  while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
    note();
    CHECK_OK(swn_sleep_for(MS));
  }
  return arg;
}

static void *yielder(void *arg) {
  while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
    note();
    CHECK_OK(swn_yield());
  }
  return arg;
}

static void in_child(void) {
  sigset_t none;
  swn_vthread_t vt;
  swn_sem_t sem;
  char byte;
  sigemptyset(&none);
  CHECK_OK(pthread_sigmask(SIG_SETMASK, &none, NULL)); /* a carrier's blocks all */
  alarm(60);                                           /* a child that hangs must not outlive the test */
  CHECK_OK(swn_sem_init(&sem, 0));
  CHECK_EQ(swn_yield(), SWN_EFORKED);
  CHECK_EQ(swn_sleep_for(MS), SWN_EFORKED);
  CHECK_EQ(swn_spawn(NULL, ticker, NULL, NULL, &vt), SWN_EFORKED);
  CHECK_EQ(swn_sem_acquire(&sem, soon()), SWN_EFORKED);
  CHECK_EQ(swn_read(silent[0], &byte, 1, soon()), SWN_EFORKED);
  __atomic_add_fetch(&shared->refused, 1, __ATOMIC_SEQ_CST);
}

static void *forker(void *arg) {
  CHECK_OK(swn_sleep_for(MS)); /* so that it was on its core before */
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0)
    in_child();
  else
    __atomic_store_n(&child, pid, __ATOMIC_SEQ_CST);
  return arg;
}

static void *echo(void *arg) {
  char byte;
  for (int i = 0; i < 100; i++) {
    CHECK_EQ(swn_read(pipes[0], &byte, 1, soon()), 1);
    __atomic_store_n((int *)arg, i + 1, __ATOMIC_SEQ_CST);
  }
  return arg;
}

static void once(uint32_t cores) {
  swn_runtime_t *rt = start(cores);
  int echoed = 0;
  stop = 0;
  CHECK_OK(swn_pipe(pipes));
  CHECK_OK(swn_pipe(silent));
  swn_vthread_t vts[] = {spawn(rt, ticker, NULL), spawn(rt, yielder, NULL), spawn(rt, echo, &echoed)};
  run_in(rt, forker, NULL);
  /* Each event reaches the parent, whether the child has ended yet or not. */
  for (int i = 0; i < 100; i++) {
    CHECK_EQ(write(pipes[1], "x", 1), 1);
    AWAIT(__atomic_load_n(&echoed, __ATOMIC_SEQ_CST) == i + 1);
  }
  int status = -1;
  AWAIT(waitpid(child, &status, WNOHANG) == child);
  CHECK(WIFEXITED(status));
  CHECK_EQ(WEXITSTATUS(status), 0);
  uint64_t ticks = __atomic_load_n(&shared->ticks, __ATOMIC_SEQ_CST);
  AWAIT(__atomic_load_n(&shared->ticks, __ATOMIC_SEQ_CST) > ticks + 10);
  __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
  for (size_t i = 0; i < COUNT(vts); i++) join(vts[i]);
  CHECK_OK(swn_close(pipes[0]));
  CHECK_OK(swn_close(pipes[1]));
  CHECK_OK(swn_close(silent[0]));
  CHECK_OK(swn_close(silent[1]));
  finish(rt);
}

int main(void) {
  parent = getpid();
  shared = (struct shared *)mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(shared != MAP_FAILED);
  uint32_t rounds = scaled(10);
  for (uint32_t i = 0; i < rounds; i++)
    for (uint32_t cores = 1; cores <= 2; cores++) once(cores);
  CHECK_EQ(shared->refused, 2 * rounds);
  CHECK_EQ(shared->strangers, 0);
  return 0;
}
