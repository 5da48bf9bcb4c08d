/* Closing an fd wakes the vthreads that wait on it, in every runtime; a reused number never sees an old event. */
#include "check.h"
#include <sys/socket.h>

static swn_runtime_t *rt;
static int fds[2], arrived;

static void *read_until_closed(void *arg) {
  char byte;
  __atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST);
  int64_t status = swn_read(fds[0], &byte, 1, SWN_FOREVER);
  CHECK_EQ(status, -ECANCELED);
  return arg;
}

static void *poll_until_closed(void *arg) {
  __atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST);
  CHECK_EQ(swn_poll(fds[0], SWN_POLLIN, SWN_FOREVER), -ECANCELED);
  return arg;
}

static void close_wakes_waiters(int forget) {
  swn_runtime_t *other = start(1);
  swn_vthread_t vts[6];
  arrived = 0;
  CHECK_OK(swn_pipe(fds));
  for (size_t i = 0; i < COUNT(vts); i++)
    vts[i] = spawn(i < 4 ? rt : other, i % 2 ? poll_until_closed : read_until_closed, NULL);
  AWAIT(__atomic_load_n(&arrived, __ATOMIC_SEQ_CST) == COUNT(vts));
  for (size_t i = 0; i < COUNT(vts); i++) {
    swn_vthread_context_t context;
    AWAIT(swn_vthread_context(vts[i], &context, sizeof context) == 0 && context.state == SWN_STATE_WAITING);
  }
  if (forget) {
    CHECK_OK(swn_fd_forget(fds[0]));
  } else {
    CHECK_OK(swn_close(fds[0]));
  }
  for (size_t i = 0; i < COUNT(vts); i++) join(vts[i]);
  if (forget) CHECK_OK(close(fds[0]));
  CHECK_OK(swn_close(fds[1]));
  finish(other);
}

/* The old pipe had data, was readable and known to the driver; the new one on the same number has none. */
static void *reuse(void *arg) {
  char byte;
  for (uint32_t i = 0; i < scaled(500); i++) {
    int old[2], fresh[2];
    CHECK_OK(swn_pipe(old));
    CHECK_EQ(swn_read(old[0], &byte, 1, swn_now() + 1000), -ETIMEDOUT);
    CHECK_EQ(swn_write(old[1], "ab", 2, soon()), 2);
    if (i % 3 == 0) CHECK_EQ(swn_read(old[0], &byte, 1, soon()), 1);
    if (i % 4 == 0) {
      CHECK_OK(swn_fd_forget(old[0]));
      CHECK_OK(close(old[0]));
    } else {
      CHECK_OK(swn_close(old[0]));
    }
    CHECK_OK(swn_close(old[1]));
    CHECK_OK(swn_pipe(fresh));
    CHECK_EQ(swn_poll(fresh[0], SWN_POLLIN, swn_deadline_after(50000)), -ETIMEDOUT);
    CHECK_EQ(swn_read(fresh[0], &byte, 1, swn_deadline_after(50000)), -ETIMEDOUT);
    CHECK_EQ(swn_write(fresh[1], "z", 1, soon()), 1);
    CHECK_EQ(swn_read(fresh[0], &byte, 1, soon()), 1);
    CHECK_EQ(byte, 'z');
    CHECK_OK(swn_close(fresh[0]));
    CHECK_OK(swn_close(fresh[1]));
  }
  return arg;
}

static void *reader_of(void *fd) {
  char byte;
  int64_t status = swn_read((int)(intptr_t)fd, &byte, 1, soon());
  CHECK(status == 1 || status == -ECANCELED || status == -EBADF);
  return NULL;
}

/* Close races with the event that would wake the reader. */
static void race(void) {
  for (uint32_t i = 0; i < scaled(500); i++) {
    int pair[2];
    CHECK_OK(swn_pipe(pair));
    swn_vthread_t reader = spawn(rt, reader_of, (void *)(intptr_t)pair[0]);
    if (i % 2) swn_sleep_for(i % 7 * 10000);
    CHECK_EQ(write(pair[1], "x", 1), 1);
    CHECK_OK(swn_close(pair[0]));
    join(reader);
    CHECK_OK(swn_close(pair[1]));
  }
}

int main(void) {
  rt = start(2);
  close_wakes_waiters(0);
  close_wakes_waiters(1);
  run_in(rt, reuse, NULL);
  swn_vthread_t vts[4];
  for (size_t i = 0; i < COUNT(vts); i++) vts[i] = spawn(rt, reuse, NULL);
  for (size_t i = 0; i < COUNT(vts); i++) join(vts[i]);
  race();
  finish(rt);
  return 0;
}
