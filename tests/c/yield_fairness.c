/* Fairness: of vthreads that only yield, none gets far ahead of the others; those that never end by themselves do
 * not keep new ones, sleepers or I/O from running. */
#include "check.h"

enum { YIELDERS = 20 };
static uint64_t turns[YIELDERS];
static int stop, done, started, go;

static void *yielder(void *slot) {
  uint64_t *mine = (uint64_t *)slot;
  /* Turns count from when all are there: the thread that spawns them may be held up between two. */
  __atomic_add_fetch(&started, 1, __ATOMIC_SEQ_CST);
  while (!__atomic_load_n(&go, __ATOMIC_SEQ_CST)) CHECK_OK(swn_yield());
  while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
    __atomic_add_fetch(mine, 1, __ATOMIC_RELAXED);
    CHECK_OK(swn_yield());
  }
  return NULL;
}

static void *once(void *arg) {
  __atomic_add_fetch(&done, 1, __ATOMIC_SEQ_CST);
  return arg;
}

static void *sleeper(void *arg) {
  for (int i = 0; i < 10; i++) CHECK_OK(swn_sleep_for(MS));
  return once(arg);
}

static void *reader(void *fd) {
  char byte;
  CHECK_EQ(swn_read(*(int *)fd, &byte, 1, soon()), 1);
  return once(fd);
}

int main(void) {
  CHECK_EQ(swn_yield(), SWN_ENOTVTHREAD);
  for (uint32_t cores = 1; cores <= 2; cores++) {
    swn_runtime_t *rt = start(cores);
    swn_vthread_t vts[YIELDERS];
    int fds[2];
    stop = done = started = go = 0;
    memset(turns, 0, sizeof turns);
    for (int i = 0; i < YIELDERS; i++) vts[i] = spawn(rt, yielder, &turns[i]);
    AWAIT(__atomic_load_n(&started, __ATOMIC_SEQ_CST) == YIELDERS);
    __atomic_store_n(&go, 1, __ATOMIC_SEQ_CST);

    /* All of these happen beside the yielders or the test never ends. */
    CHECK_OK(swn_pipe(fds));
    CHECK_OK(swn_spawn(rt, reader, &fds[0], NULL, NULL));
    CHECK_OK(swn_spawn(rt, sleeper, NULL, NULL, NULL));
    for (int i = 0; i < 100; i++) CHECK_OK(swn_spawn(rt, once, NULL, NULL, NULL));
    CHECK_EQ(swn_write(fds[1], "x", 1, soon()), 1);
    AWAIT(__atomic_load_n(&done, __ATOMIC_SEQ_CST) == 102);
    for (int i = 0; i < YIELDERS; i++) AWAIT(__atomic_load_n(&turns[i], __ATOMIC_RELAXED) > 1000 * scaled(10) / 10);

    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < YIELDERS; i++) join(vts[i]);
    if (cores == 1) {
      /* One queue, first in first out: nobody has twice the turns of another. */
      uint64_t least = turns[0], most = turns[0];
      for (int i = 1; i < YIELDERS; i++) {
        least = turns[i] < least ? turns[i] : least;
        most = turns[i] > most ? turns[i] : most;
      }
      CHECK(most <= 2 * least + 1000);
    }
    CHECK_OK(swn_close(fds[0]));
    CHECK_OK(swn_close(fds[1]));
    finish(rt);
  }
  return 0;
}
