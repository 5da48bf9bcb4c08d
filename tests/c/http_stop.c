/* Stopping a server: running exchanges finish, idle connections are closed, nobody new gets in; and a runtime that is
 * stopped under a server ends it. */
#include "http_client.h"
#include <pthread.h>

static swn_sem_t inside, go_on;

static void slow(void *arg, swn_http_exchange_t *x) {
  (void)arg;
  CHECK_OK(swn_sem_release(&inside, 1));
  CHECK_OK(swn_sem_acquire(&go_on, soon()));
  CHECK_OK(swn_http_respond(x, 200, "text/plain", "done", 4));
}

static void never(void *arg, swn_http_exchange_t *x) {
  (void)arg, (void)x;
  CHECK_OK(swn_sem_release(&inside, 1));
  CHECK_EQ(swn_sem_acquire(&go_on, SWN_FOREVER), -ECANCELED);
}

static void *stop_server(void *server) {
  CHECK_OK(swn_http_server_stop((swn_http_server_t *)server, soon()));
  return NULL;
}

static int connects(int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int status = connect(fd, (struct sockaddr *)&address, sizeof address);
  close(fd);
  return status == 0;
}

int main(void) {
  static struct response r;
  pthread_t thread;
  swn_runtime_t *rt = start(2);
  for (int round = 0; round < 5; round++) {
    swn_http_server_t *server = NULL;
    CHECK_OK(swn_http_server_create(rt, NULL, &server));
    CHECK_OK(swn_http_route(server, "GET", "/slow", slow, NULL));
    int port = swn_http_server_listen(server, "127.0.0.1", 0);
    CHECK(port > 0);
    struct client *idle = client_open(port), *running = client_open(port);
    SEND(running, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
    CHECK_OK(swn_sem_acquire(&inside, soon()));
    /* Too early: the exchange still runs, and stop may be called again. */
    CHECK_EQ(swn_http_server_stop(server, swn_deadline_after(10 * MS)), -ETIMEDOUT);
    CHECK_EQ(swn_http_server_destroy(server), -EBUSY);
    CHECK_OK(pthread_create(&thread, NULL, stop_server, server));
    client_expect_end(idle);
    AWAIT(!connects(port));
    CHECK_OK(swn_sem_release(&go_on, 1));
    client_read(running, &r, 0);
    CHECK_EQ(r.status, 200);
    CHECK(strcmp(r.body, "done") == 0);
    client_expect_end(running);
    CHECK_OK(pthread_join(thread, NULL));
    CHECK_OK(swn_http_server_destroy(server));
    client_close(idle);
    client_close(running);
  }

  swn_http_server_t *server = NULL;
  CHECK_OK(swn_http_server_create(rt, NULL, &server));
  CHECK_OK(swn_http_route(server, "GET", "/never", never, NULL));
  int port = swn_http_server_listen(server, "127.0.0.1", 0);
  struct client *c = client_open(port);
  SEND(c, "GET /never HTTP/1.1\r\nHost: x\r\n\r\n");
  CHECK_OK(swn_sem_acquire(&inside, soon()));
  CHECK_OK(swn_runtime_stop(rt, swn_deadline_after(SECOND)));
  while (client_fill(c)) continue;
  client_close(c);
  /* The server may go before or with its runtime. */
  int status = swn_http_server_stop(server, soon());
  CHECK(status == 0 || status == SWN_ESTOPPED);
  CHECK_OK(swn_http_server_destroy(server));
  CHECK_OK(swn_runtime_destroy(rt));
  return 0;
}
