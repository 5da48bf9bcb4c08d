/* No file descriptors left: each call says -EMFILE, a runtime and a server that run go on, and both recover.
 * SWN_TEST: skip valgrind it keeps descriptors and a limit of its own */
#include "check.h"
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>

static int hoard[256], hoarded;

static void take_all_fds(void) {
  int fd;
  while ((fd = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0) hoard[hoarded++] = fd;
  CHECK_EQ(errno, EMFILE);
}

static void give_back(int keep) {
  while (hoarded > keep) close(hoard[--hoarded]);
}

static uint16_t port_of(int fd) {
  struct sockaddr_in address;
  socklen_t len = sizeof address;
  CHECK_OK(getsockname(fd, (struct sockaddr *)&address, &len));
  return ntohs(address.sin_port);
}

static void *body(void *listener) {
  int fds[2];
  uint16_t port = port_of(*(int *)listener);
  take_all_fds();
  CHECK_EQ(swn_pipe(fds), -EMFILE);
  CHECK_EQ(swn_tcp_listen("127.0.0.1", 0, 16, 0), -EMFILE);
  CHECK_EQ(swn_tcp_connect("127.0.0.1", port, soon()), -EMFILE);
  CHECK_EQ(swn_open("/dev/null", O_RDONLY, 0, soon()), -EMFILE);

  /* A connection that cannot be accepted now can be later. */
  give_back(hoarded - 1);
  int client = swn_tcp_connect("127.0.0.1", port, soon());
  CHECK(client >= 0);
  CHECK_EQ(swn_accept(*(int *)listener, NULL, NULL, soon()), -EMFILE);
  give_back(0);
  int accepted = swn_accept(*(int *)listener, NULL, NULL, soon());
  CHECK(accepted >= 0);
  CHECK_OK(swn_close(accepted));
  CHECK_OK(swn_close(client));
  return NULL;
}

static void hello(void *arg, swn_http_exchange_t *x) {
  (void)arg;
  CHECK_OK(swn_http_respond(x, 200, "text/plain", "hello", 5));
}

/* Connected and asked while the server has no descriptor to accept with: answered once it has. */
static void ask_while_none_is_left(int port) {
  static const char request[] = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  char answer[512];
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(fd >= 0);
  take_all_fds();
  CHECK_OK(connect(fd, (struct sockaddr *)&address, sizeof address));
  CHECK_EQ(write(fd, request, sizeof request - 1), (ssize_t)sizeof request - 1);
  swn_sleep_for(30 * MS); /* the server tries in vain */
  give_back(0);
  CHECK(read(fd, answer, sizeof answer) > 12);
  CHECK(memcmp(answer, "HTTP/1.1 200", 12) == 0);
  close(fd);
}

int main(void) {
  struct rlimit limit = {128, 128};
  CHECK_OK(setrlimit(RLIMIT_NOFILE, &limit));

  take_all_fds();
  swn_runtime_t *rt = NULL;
  CHECK_EQ(swn_runtime_start(NULL, &rt), -EMFILE);
  CHECK(rt == NULL);
  give_back(0);

  rt = start(2);
  int listener = swn_tcp_listen("127.0.0.1", 0, 16, 0);
  CHECK(listener >= 0);
  run_in(rt, body, &listener);
  CHECK_OK(swn_close(listener));

  swn_http_server_t *server;
  CHECK_OK(swn_http_server_create(rt, NULL, &server));
  CHECK_OK(swn_http_route(server, "GET", "/", hello, NULL));
  int port = swn_http_server_listen(server, "127.0.0.1", 0);
  CHECK(port > 0);
  for (int i = 0; i < 3; i++) ask_while_none_is_left(port);
  CHECK_OK(swn_http_server_stop(server, soon()));
  CHECK_OK(swn_http_server_destroy(server));
  finish(rt);
  return 0;
}
