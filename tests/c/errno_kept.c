/* errno of a vthread survives its waits, whatever other vthreads on the same OS threads do to theirs. */
#include "check.h"

/* The compiler computes &errno once per function: each look happens in a function of its own. */
static __attribute__((noinline)) void errno_set(int value) {
  __asm__ volatile("" ::: "memory");
  errno = value;
}

static __attribute__((noinline)) int errno_get(void) {
  __asm__ volatile("" ::: "memory");
  return errno;
}

static swn_sem_t sem;
static int pipes[2];

static void *keep(void *arg) {
  int mine = 1 + (int)(uintptr_t)arg % 100;
  char byte = 0;
  for (uint32_t i = 0; i < scaled(200); i++) {
    errno_set(mine);
    switch (i % 5) {
      case 0: CHECK_OK(swn_yield()); break;
      case 1: CHECK_OK(swn_sleep_for(1000 * (i % 50))); break;
      case 2: CHECK_OK(swn_sem_acquire(&sem, soon())); break;
      case 3: CHECK_OK(swn_sem_release(&sem, 1)); break;
      default: CHECK_EQ(swn_read(pipes[0], &byte, 1, swn_deadline_after(1000)), -ETIMEDOUT); break;
    }
    CHECK_EQ(errno_get(), mine);
  }
  return NULL;
}

int main(void) {
  swn_runtime_t *rt = start(2);
  CHECK_OK(swn_sem_init(&sem, 10));
  CHECK_OK(swn_pipe(pipes));
  swn_vthread_t vts[50];
  for (size_t i = 0; i < COUNT(vts); i++) vts[i] = spawn(rt, keep, (void *)(uintptr_t)i);
  for (size_t i = 0; i < COUNT(vts); i++) join(vts[i]);
  CHECK_OK(swn_close(pipes[0]));
  CHECK_OK(swn_close(pipes[1]));
  finish(rt);
  return 0;
}
