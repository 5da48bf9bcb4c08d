/* Names: numeric addresses, localhost, failures, from a vthread and from an OS thread. */
#include "check.h"
#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>

static void *resolve(void *arg) {
  struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST};
  struct addrinfo *list = NULL;
  CHECK_OK(swn_getaddrinfo("127.0.0.1", "80", &hints, &list, soon()));
  CHECK(list != NULL);
  struct sockaddr_in *address = (struct sockaddr_in *)(void *)list->ai_addr;
  CHECK_EQ(ntohl(address->sin_addr.s_addr), INADDR_LOOPBACK);
  CHECK_EQ(ntohs(address->sin_port), 80);
  freeaddrinfo(list);

  list = NULL;
  CHECK_EQ(swn_getaddrinfo("not numeric", "80", &hints, &list, soon()), -20000 + EAI_NONAME);
  CHECK(list == NULL);
  CHECK(strlen(swn_strerror(-20000 + EAI_NONAME)) > 3);

  hints.ai_flags = 0;
  CHECK_OK(swn_getaddrinfo("localhost", "8080", &hints, &list, soon()));
  address = (struct sockaddr_in *)(void *)list->ai_addr;
  CHECK_EQ(ntohl(address->sin_addr.s_addr) >> 24, 127);
  freeaddrinfo(list);

  CHECK_OK(swn_getaddrinfo("127.0.0.1", NULL, NULL, &list, soon()));
  freeaddrinfo(list);

  /* By name through the whole of tcp_connect. */
  int listener = swn_tcp_listen("127.0.0.1", 0, 16, 0);
  struct sockaddr_in own;
  socklen_t len = sizeof own;
  CHECK_OK(getsockname(listener, (struct sockaddr *)&own, &len));
  int fd = swn_tcp_connect("localhost", ntohs(own.sin_port), soon());
  CHECK(fd >= 0);
  CHECK_OK(swn_close(fd));
  CHECK_OK(swn_close(listener));
  return arg;
}

int main(void) {
  swn_runtime_t *rt = start(2);
  swn_vthread_t vts[20];
  run_in(rt, resolve, NULL);
  resolve(NULL);
  for (size_t i = 0; i < COUNT(vts); i++) vts[i] = spawn(rt, resolve, NULL);
  for (size_t i = 0; i < COUNT(vts); i++) join(vts[i]);
  finish(rt);
  return 0;
}
