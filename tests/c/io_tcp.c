/* TCP: echo over many connections from vthreads and from OS threads, addresses, flags, end of stream, refused
 * connections, polling. */
#include "check.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>

static swn_runtime_t *rt;
static uint16_t port;
static int served;

static uint16_t port_of(int fd) {
  struct sockaddr_storage address;
  socklen_t len = sizeof address;
  CHECK_OK(getsockname(fd, (struct sockaddr *)&address, &len));
  return ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                             : ((struct sockaddr_in *)&address)->sin_port);
}

static void *echo(void *arg) {
  int fd = (int)(intptr_t)arg;
  char buf[4096];
  int64_t n;
  while ((n = swn_read(fd, buf, sizeof buf, soon())) > 0) CHECK_EQ(swn_write_all(fd, buf, (size_t)n, soon()), n);
  CHECK_EQ(n, 0);
  CHECK_OK(swn_close(fd));
  __atomic_add_fetch(&served, 1, __ATOMIC_SEQ_CST);
  return NULL;
}

static void *serve(void *arg) {
  int listener = *(int *)arg, fd;
  for (;;) {
    struct sockaddr_in peer;
    uint32_t len = sizeof peer;
    fd = swn_accept(listener, (struct sockaddr *)&peer, &len, SWN_FOREVER);
    if (fd == -ECANCELED) return NULL;
    CHECK(fd >= 0);
    CHECK_EQ(len, sizeof peer);
    CHECK_EQ(peer.sin_family, AF_INET);
    CHECK_EQ(ntohl(peer.sin_addr.s_addr), INADDR_LOOPBACK);
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
    CHECK_OK(swn_spawn(rt, echo, (void *)(intptr_t)fd, NULL, NULL));
  }
}

static void *client(void *seed) {
  uint32_t rounds = scaled(20), bytes = 1 + (uint32_t)(uintptr_t)seed * 2503 % 60000;
  char *out = (char *)malloc(bytes), *in = (char *)malloc(bytes);
  int fd = swn_tcp_connect("127.0.0.1", port, soon());
  CHECK(fd >= 0);
  CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
  for (uint32_t round = 0; round < rounds; round++) {
    for (uint32_t i = 0; i < bytes; i++) out[i] = (char)(i * 7 + round);
    uint32_t sent = 0, got = 0;
    while (got < bytes) {
      if (sent < bytes) {
        /* Both ends would fill up if all were written before the first read. */
        uint32_t part = bytes - sent < 4000 ? bytes - sent : 4000;
        CHECK_EQ(swn_write_all(fd, out + sent, part, soon()), part);
        sent += part;
      }
      int64_t n = swn_recv(fd, in + got, sent - got, 0, soon());
      CHECK(n > 0);
      got += (uint32_t)n;
    }
    CHECK(memcmp(in, out, bytes) == 0);
  }
  CHECK_OK(shutdown(fd, SHUT_WR));
  CHECK_EQ(swn_read(fd, in, bytes, soon()), 0);
  CHECK_OK(swn_close(fd));
  free(out);
  free(in);
  return NULL;
}

static void *polls(void *arg) {
  int listener = swn_tcp_listen("127.0.0.1", 0, 16, 0);
  CHECK(listener >= 0);
  CHECK_EQ(swn_poll(listener, SWN_POLLIN, 0), -ETIMEDOUT);
  CHECK_EQ(swn_accept(listener, NULL, NULL, 0), -ETIMEDOUT);
  CHECK_EQ(swn_accept(listener, NULL, NULL, swn_deadline_after(2 * MS)), -ETIMEDOUT);
  int one = swn_tcp_connect("127.0.0.1", port_of(listener), soon());
  CHECK(one >= 0);
  CHECK(swn_poll(listener, SWN_POLLIN, soon()) & SWN_POLLIN);
  int two = swn_accept(listener, NULL, NULL, soon());
  CHECK(two >= 0);
  CHECK_EQ(swn_poll(one, SWN_POLLIN | SWN_POLLOUT, soon()), SWN_POLLOUT);
  CHECK_EQ(swn_poll(one, SWN_POLLIN, swn_deadline_after(2 * MS)), -ETIMEDOUT);
  CHECK_EQ(swn_send(two, "abc", 3, 0, soon()), 3);
  CHECK(swn_poll(one, SWN_POLLIN, soon()) & SWN_POLLIN);
  char buf[8];
  CHECK_EQ(swn_recv(one, buf, sizeof buf, MSG_PEEK, soon()), 3);
  CHECK_EQ(swn_recv(one, buf, 2, 0, soon()), 2);
  CHECK_EQ(swn_recv(one, buf, sizeof buf, 0, soon()), 1);
  CHECK_OK(swn_close(two));
  CHECK(swn_poll(one, SWN_POLLIN, soon()) & SWN_POLLIN);
  CHECK_EQ(swn_read(one, buf, sizeof buf, soon()), 0);
  CHECK_OK(swn_close(one));
  CHECK_OK(swn_close(listener));
  return arg;
}

static void *refused_and_taken(void *arg) {
  /* A port that was just closed again. */
  int listener = swn_tcp_listen("127.0.0.1", 0, 16, 0);
  uint16_t free_port = port_of(listener);
  int second = swn_tcp_listen("127.0.0.1", free_port, 16, 0);
  CHECK_EQ(second, -EADDRINUSE);
  CHECK_OK(swn_close(listener));
  CHECK_EQ(swn_tcp_connect("127.0.0.1", free_port, soon()), -ECONNREFUSED);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(free_port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  CHECK_EQ(swn_connect(fd, (struct sockaddr *)&address, sizeof address, soon()), -ECONNREFUSED);
  CHECK_OK(swn_close(fd));

  int a = swn_tcp_listen("127.0.0.1", 0, 16, SWN_LISTEN_REUSEPORT);
  CHECK(a >= 0);
  int b = swn_tcp_listen("127.0.0.1", port_of(a), 16, SWN_LISTEN_REUSEPORT);
  CHECK(b >= 0);
  CHECK_OK(swn_close(a));
  CHECK_OK(swn_close(b));
  a = swn_tcp_listen(NULL, 0, 16, 0);
  CHECK(a >= 0);
  fd = swn_tcp_connect("127.0.0.1", port_of(a), soon());
  CHECK(fd >= 0);
  CHECK_OK(swn_close(fd));
  CHECK_OK(swn_close(a));
  return arg;
}

int main(void) {
  rt = start(2);
  int listener = swn_tcp_listen("127.0.0.1", 0, 128, 0);
  CHECK(listener >= 0);
  port = port_of(listener);
  swn_vthread_t server = spawn(rt, serve, &listener);
  swn_vthread_t vts[40];
  pthread_t threads[4];
  for (size_t i = 0; i < COUNT(vts); i++) vts[i] = spawn(rt, client, (void *)(uintptr_t)i);
  for (size_t i = 0; i < COUNT(threads); i++)
    CHECK_OK(pthread_create(&threads[i], NULL, client, (void *)(uintptr_t)(i + 100)));
  for (size_t i = 0; i < COUNT(vts); i++) join(vts[i]);
  for (size_t i = 0; i < COUNT(threads); i++) CHECK_OK(pthread_join(threads[i], NULL));
  AWAIT(__atomic_load_n(&served, __ATOMIC_SEQ_CST) == COUNT(vts) + COUNT(threads));
  run_in(rt, polls, NULL);
  polls(NULL); /* the same from an OS thread */
  run_in(rt, refused_and_taken, NULL);
  refused_and_taken(NULL);
  CHECK_OK(swn_close(listener));
  join(server);
  finish(rt);
  return 0;
}
