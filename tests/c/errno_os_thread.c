/* errno of a plain OS thread is as it was after every call, whatever the call blocked in and however it ended. */
#include "check.h"
#include <pthread.h>

enum { MINE = 77 };
static swn_runtime_t *rt;
static int pipes[2];

/* Each call gets a few milliseconds and so blocks; if it did not on a slow machine, the check still holds. */
#define KEEPS_ERRNO(call, wanted)   \
  do {                              \
    errno = MINE;                   \
    long long keeps_r = (call);     \
    int keeps_e = errno;            \
    CHECK_EQ(keeps_r, wanted);      \
    CHECK_EQ(keeps_e, MINE);        \
  } while (0)

static uint64_t shortly(void) { return swn_deadline_after(2 * MS); }

static void *sleeper(void *arg) {
  CHECK_OK(swn_sleep_for(5 * MS));
  return arg;
}

static void *waiter(void *sem) {
  CHECK_OK(swn_sem_acquire((swn_sem_t *)sem, soon()));
  return sem;
}

static void *releaser(void *sem) {
  CHECK_OK(swn_sleep_for(5 * MS));
  CHECK_OK(swn_sem_release((swn_sem_t *)sem, 1));
  return sem;
}

static void *fail(void *arg) {
  CHECK_EQ(close(-1), -1);
  return arg;
}

static void *all_keep(void *arg) {
  swn_sem_t gate, grant;
  char byte;
  CHECK_OK(swn_sem_init(&gate, 0));
  CHECK_OK(swn_sem_init(&grant, 0));
  for (uint32_t i = 0; i < scaled(50); i++) {
    KEEPS_ERRNO(swn_sem_acquire(&gate, shortly()), -ETIMEDOUT);
    KEEPS_ERRNO(swn_sem_acquire(&gate, 0), -ETIMEDOUT);
    swn_vthread_t blocked = spawn(rt, waiter, &gate);
    KEEPS_ERRNO(swn_join(blocked, NULL, shortly()), -ETIMEDOUT);
    KEEPS_ERRNO(swn_join(blocked, NULL, 0), -ETIMEDOUT);
    KEEPS_ERRNO(swn_sem_release(&gate, 1), 0);
    KEEPS_ERRNO(swn_join(blocked, NULL, soon()), 0);
    KEEPS_ERRNO(swn_join(blocked, NULL, soon()), SWN_ESTALE_HANDLE);
    swn_vthread_t slow = spawn(rt, sleeper, NULL);
    KEEPS_ERRNO(swn_join(slow, NULL, soon()), 0);
    CHECK_OK(swn_spawn(rt, releaser, &grant, NULL, NULL));
    KEEPS_ERRNO(swn_sem_acquire(&grant, soon()), 0);
    KEEPS_ERRNO(swn_sleep_for(MS), 0);
    KEEPS_ERRNO(swn_poll(pipes[0], SWN_POLLIN, shortly()), -ETIMEDOUT);
    KEEPS_ERRNO(swn_read(pipes[0], &byte, 1, shortly()), -ETIMEDOUT);
    KEEPS_ERRNO(swn_read(-1, &byte, 1, shortly()), -EBADF);
    KEEPS_ERRNO(swn_pread(-1, &byte, 1, 0, soon()), -EBADF);
    KEEPS_ERRNO(swn_open("/nowhere/at/all", 0, 0, soon()), -ENOENT);
    KEEPS_ERRNO(swn_close(-1), -EBADF);
    KEEPS_ERRNO(swn_offload(fail, NULL, NULL, soon()), 0);
  }
  return arg;
}

int main(void) {
  pthread_t threads[2];
  rt = start(2);
  CHECK_OK(swn_pipe(pipes));
  for (size_t i = 0; i < COUNT(threads); i++) CHECK_OK(pthread_create(&threads[i], NULL, all_keep, NULL));
  all_keep(NULL);
  for (size_t i = 0; i < COUNT(threads); i++) CHECK_OK(pthread_join(threads[i], NULL));
  CHECK_OK(swn_close(pipes[0]));
  CHECK_OK(swn_close(pipes[1]));
  finish(rt);
  return 0;
}
