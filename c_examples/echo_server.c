/* A TCP echo server in blocking style: one vthread accepts, one per connection reads and writes. Ends cleanly on
 * SIGINT and SIGTERM.
 *
 *   ./echo_server [port]     default 7777; 0: any free one */
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <swiftnet.h>
#include <sys/socket.h>

#define SECONDS(n) ((uint64_t)(n) * 1000000000u)

static void *serve_connection(void *arg) {
  int fd = (int)(intptr_t)arg;
  char buf[4096];
  for (;;) {
    /* Parks this vthread until there is data. A client that says nothing for a minute is let go. */
    int64_t n = swn_read(fd, buf, sizeof buf, swn_deadline_after(SECONDS(60)));
    if (n <= 0) break;
    if (swn_write_all(fd, buf, (size_t)n, swn_deadline_after(SECONDS(60))) != n) break;
  }
  swn_close(fd);
  return NULL;
}

static void *accept_connections(void *arg) {
  int listener = *(int *)arg;
  for (;;) {
    int fd = swn_accept(listener, NULL, NULL, SWN_FOREVER);
    if (fd == -ECANCELED || fd == -EBADF) return NULL; /* closed, or the runtime stops */
    if (fd < 0) {
      swn_sleep_for(10 * 1000000u); /* out of descriptors, say: give the others time to end */
      continue;
    }
    if (swn_spawn(NULL, serve_connection, (void *)(intptr_t)fd, NULL, NULL) != 0) swn_close(fd);
  }
}

int main(int argc, char **argv) {
  uint16_t port = (uint16_t)(argc > 1 ? atoi(argv[1]) : 7777);
  swn_runtime_t *rt;
  sigset_t ends;
  int signal_number;

  /* Blocked before the runtime makes its threads, so that the signals wait for sigwait below. */
  sigemptyset(&ends);
  sigaddset(&ends, SIGINT);
  sigaddset(&ends, SIGTERM);
  sigprocmask(SIG_BLOCK, &ends, NULL);
  signal(SIGPIPE, SIG_IGN);

  int status = swn_runtime_start(NULL, &rt);
  int listener = status == 0 ? swn_tcp_listen("127.0.0.1", port, 128, 0) : status;
  if (listener < 0) {
    fprintf(stderr, "port %u: %s\n", port, swn_strerror(listener));
    return 1;
  }
  struct sockaddr_in address;
  socklen_t len = sizeof address;
  getsockname(listener, (struct sockaddr *)&address, &len);
  if (swn_spawn(rt, accept_connections, &listener, NULL, NULL) != 0) return 1;
  printf("echo on 127.0.0.1:%u\n", ntohs(address.sin_port));
  fflush(stdout);

  sigwait(&ends, &signal_number);
  swn_close(listener);
  swn_runtime_stop(rt, swn_deadline_after(SECONDS(2)));
  return swn_runtime_destroy(rt) == 0 ? 0 : 1;
}
