/* Vthreads that block their OS thread in the kernel keep nobody from running, on one core: what ends each wait is done by a
 * vthread that must run meanwhile.
 *
 * SWN_TEST: skip valgrind one thread runs at a time there, so cores are not certain to be handed over */
#include "preempt.h"
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <sys/file.h>

enum { BLOCKED = 4 };
static swn_runtime_t *rt;
static uint32_t inside, out;
static int go_on;

/* ---- the kinds: `block` is run by BLOCKED vthreads at once, `unblock` by another one when all are in it -------------- */

static int pipes[2];

static void block_in_read(void) {
  char byte;
  CHECK_EQ(read(pipes[0], &byte, 1), 1);
}

static void block_in_poll(void) {
  struct pollfd fd = {.fd = pipes[0], .events = POLLIN};
  CHECK_EQ(poll(&fd, 1, -1), 1);
  char byte;
  CHECK_EQ(read(pipes[0], &byte, 1), 1);
}

static void write_bytes(void) {
  for (int i = 0; i < BLOCKED; i++) CHECK_EQ(write(pipes[1], "x", 1), 1);
}

static void block_in_usleep(void) {
  while (!LOAD(go_on)) usleep(3000);
}

static void block_in_sleep(void) {
  while (!LOAD(go_on)) sleep(1);
}

static void set_go_on(void) { STORE(go_on, 1); }

static char lock_path[64];
static int locked, held;

static void block_in_flock(void) {
  int fd = open(lock_path, O_RDWR | O_CLOEXEC);
  CHECK(fd >= 0);
  CHECK_OK(flock(fd, LOCK_EX));
  CHECK_EQ(ADD(held, 1), 1);
  CHECK_EQ(ADD(held, -1), 0);
  CHECK_OK(close(fd));
}

static void unlock_file(void) {
  CHECK_EQ(LOAD(out), 0);
  CHECK_OK(flock(locked, LOCK_UN));
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static int has_mutex, may_wait;

/* Keeps the mutex while it is blocked itself: of the others each gets it in turn. */
static void *hold_mutex(void *arg) {
  CHECK_OK(pthread_mutex_lock(&mutex));
  STORE(has_mutex, 1);
  while (!LOAD(go_on)) usleep(1000);
  CHECK_EQ(LOAD(out), 0);
  CHECK_OK(pthread_mutex_unlock(&mutex));
  return arg;
}

static void block_in_mutex(void) {
  CHECK_OK(pthread_mutex_lock(&mutex));
  CHECK_EQ(LOAD(go_on), 1);
  CHECK_EQ(ADD(held, 1), 1);
  usleep(100);
  CHECK_EQ(ADD(held, -1), 0);
  CHECK_OK(pthread_mutex_unlock(&mutex));
}

static void block_in_cond(void) {
  CHECK_OK(pthread_mutex_lock(&mutex));
  while (!may_wait) CHECK_OK(pthread_cond_wait(&cond, &mutex));
  CHECK_OK(pthread_mutex_unlock(&mutex));
}

static void signal_cond(void) {
  CHECK_OK(pthread_mutex_lock(&mutex));
  may_wait = 1;
  CHECK_OK(pthread_cond_broadcast(&cond));
  CHECK_OK(pthread_mutex_unlock(&mutex));
}

static const struct {
  void (*block)(void);
  void (*unblock)(void);
} kinds[] = {{block_in_read, write_bytes},   {block_in_poll, write_bytes},  {block_in_usleep, set_go_on},
             {block_in_sleep, set_go_on},    {block_in_flock, unlock_file}, {block_in_mutex, set_go_on},
             {block_in_cond, signal_cond}};

static void *blocked(void *kind) {
  ADD(inside, 1);
  kinds[(uintptr_t)kind].block();
  ADD(out, 1);
  CHECK_OK(swn_yield());
  return kind;
}

static void *unblocking(void *kind) {
  AWAIT(LOAD(inside) == BLOCKED);
  CHECK_EQ(LOAD(out), 0);
  kinds[(uintptr_t)kind].unblock();
  return kind;
}

static void none_holds_the_core(uintptr_t kind) {
  swn_vthread_t vts[BLOCKED], holder = 0;
  STORE(inside, 0);
  STORE(out, 0);
  STORE(go_on, 0);
  STORE(has_mutex, 0);
  may_wait = 0;
  swn_stats_t before = stats_of(rt);
  if (kinds[kind].block == block_in_mutex) {
    holder = spawn(rt, hold_mutex, NULL);
    AWAIT(LOAD(has_mutex));
  }
  if (kinds[kind].block == block_in_flock) CHECK_OK(flock(locked, LOCK_EX));
  for (int i = 0; i < BLOCKED; i++) vts[i] = spawn(rt, blocked, (void *)kind);
  swn_vthread_t other = spawn(rt, unblocking, (void *)kind);
  for (int i = 0; i < BLOCKED; i++) CHECK(join(vts[i]) == (void *)kind);
  join(other);
  if (holder) join(holder);
  CHECK_EQ(out, BLOCKED);
  swn_stats_t after = stats_of(rt);
  /* They were all in it at once, so each gave the core to the next. One that had to wait for a CPU may count as having
   * run too long. */
  CHECK(after.handoffs_blocked > before.handoffs_blocked);
  CHECK(after.handoffs_blocked + after.preempted - before.handoffs_blocked - before.preempted >= BLOCKED);
  AWAIT(stats_of(rt).carriers_without_core == 0);
}

/* ---- look-ups, which may or may not block ------------------------------------------------------------------------- */

static void *look_up(void *arg) {
  struct addrinfo *list = NULL;
  CHECK_OK(getaddrinfo("localhost", "80", NULL, &list));
  CHECK(list != NULL);
  freeaddrinfo(list);
  return arg;
}

/* ---- many -------------------------------------------------------------------------------------------------------- */

static uint32_t crowd;

static void *sleep_in_crowd(void *arg) {
  ADD(inside, 1);
  do usleep(20000);
  while (LOAD(inside) < crowd); /* until all are in it */
  return arg;
}

static void a_crowd_sleeps_at_once(void) {
  crowd = scaled(1000);
  swn_vthread_t *vts = (swn_vthread_t *)calloc(crowd, sizeof *vts);
  STORE(inside, 0);
  swn_stats_t before = stats_of(rt);
  for (uint32_t i = 0; i < crowd; i++) vts[i] = spawn(rt, sleep_in_crowd, &vts[i]);
  for (uint32_t i = 0; i < crowd; i++) CHECK(join(vts[i]) == &vts[i]);
  free(vts);
  swn_stats_t after = stats_of(rt);
  CHECK(after.handoffs_blocked + after.preempted - before.handoffs_blocked - before.preempted >= crowd - 1);
  CHECK_EQ(after.handoffs_denied, 0);
  AWAIT(stats_of(rt).carriers_without_core == 0);
  AWAIT(stats_of(rt).carriers <= 8);
  AWAIT(count_entries("/proc/self/task") <= 12); /* and the threads are really gone */
}

int main(void) {
  need_hand_off();
  snprintf(lock_path, sizeof lock_path, "/tmp/swiftnet-test-%d", (int)getpid());
  CHECK((locked = open(lock_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600)) >= 0);
  CHECK_OK(pipe(pipes));
  rt = start(1);
  for (uintptr_t kind = 0; kind < COUNT(kinds); kind++) none_holds_the_core(kind);
  swn_vthread_t vts[20];
  for (size_t i = 0; i < COUNT(vts); i++) vts[i] = spawn(rt, look_up, NULL);
  for (size_t i = 0; i < COUNT(vts); i++) join(vts[i]);
  a_crowd_sleeps_at_once();
  finish(rt);
  CHECK_OK(close(pipes[0]));
  CHECK_OK(close(pipes[1]));
  CHECK_OK(close(locked));
  CHECK_OK(unlink(lock_path));
  return 0;
}
