/* Descriptors that the host made: the first use in a vthread makes them non-blocking, forgetting restores what they
 * were; an OS thread uses them as they are. */
#include "check.h"
#include <fcntl.h>
#include <sys/socket.h>

static void *use(void *arg) {
  int pair[2];
  char byte;
  for (int was_nonblocking = 0; was_nonblocking < 2; was_nonblocking++) {
    CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM | (was_nonblocking ? SOCK_NONBLOCK : 0), 0, pair));
    int before = fcntl(pair[0], F_GETFL);
    CHECK_EQ(swn_read(pair[0], &byte, 1, swn_deadline_after(MS)), -ETIMEDOUT);
    CHECK_EQ(fcntl(pair[0], F_GETFL), swn_self() ? before | O_NONBLOCK : before);
    CHECK_EQ(write(pair[1], "a", 1), 1);
    CHECK_EQ(swn_read(pair[0], &byte, 1, soon()), 1);
    CHECK_OK(swn_fd_forget(pair[0]));
    CHECK_EQ(fcntl(pair[0], F_GETFL), before);
    /* The host has it back, and may give it again. */
    CHECK_EQ(write(pair[1], "b", 1), 1);
    CHECK_EQ(read(pair[0], &byte, 1), 1);
    CHECK_EQ(swn_read(pair[0], &byte, 1, swn_deadline_after(MS)), -ETIMEDOUT);
    CHECK_OK(swn_fd_forget(pair[0]));
    CHECK_EQ(fcntl(pair[0], F_GETFL), before);
    CHECK_OK(close(pair[0]));
    CHECK_OK(close(pair[1]));
  }
  return arg;
}

int main(void) {
  swn_runtime_t *rt = start(2);
  run_in(rt, use, NULL);
  use(NULL);
  finish(rt);
  return 0;
}
