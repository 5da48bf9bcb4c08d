/* HTTP: what is refused, with which status, and that the connection ends where the framing is in doubt. */
#include "http_client.h"

static struct response r;

static void hello(void *arg, swn_http_exchange_t *x) {
  (void)arg;
  CHECK_OK(swn_http_respond(x, 200, "text/plain", "ok", 2));
}

static void refused(int port, int status, const char *request) {
  struct client *c = client_open(port);
  client_send(c, request, strlen(request));
  client_read(c, &r, 0);
  if (r.status != status) fprintf(stderr, "for this request:\n%s\n", request);
  CHECK_EQ(r.status, status);
  /* Whatever follows is not taken for a request. */
  client_send(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 27);
  client_expect_end(c);
  client_close(c);
}

static void malformed(int port) {
  refused(port, 400, "NONSENSE\r\n\r\n");
  refused(port, 400, "GET / HTTP/1.1\r\nHost: x\r\nNo colon here\r\n\r\n");
  refused(port, 400, "GET / HTTP/1.1\r\nHost : x\r\n\r\n");
  refused(port, 400, "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n");
  refused(port, 400, "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n");
  refused(port, 400, "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\nx");
  refused(port, 400, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd");
  /* Request smuggling: both lengths. */
  refused(port, 400, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
  refused(port, 501, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n");
  refused(port, 400, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n");
  refused(port, 400, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcXX0\r\n\r\n");
}

static void too_large(int port) {
  static char request[200000];
  int n = sprintf(request, "GET / HTTP/1.1\r\nHost: x\r\nX-Long: ");
  memset(request + n, 'a', 5000);
  strcpy(request + n + 5000, "\r\n\r\n");
  refused(port, 431, request);
  n = sprintf(request, "GET /");
  memset(request + n, 'a', 5000);
  strcpy(request + n + 5000, " HTTP/1.1\r\nHost: x\r\n\r\n");
  struct client *c = client_open(port);
  client_send(c, request, strlen(request));
  client_read(c, &r, 0);
  CHECK(r.status == 431 || r.status == 414);
  client_close(c);
  refused(port, 413, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n");
  refused(port, 413, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n");
  CHECK(ask(port, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n", &r) >= 400);
  /* Up to the limit is fine. */
  n = sprintf(request, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n");
  memset(request + n, 'b', 1000);
  request[n + 1000] = 0;
  CHECK_EQ(ask(port, request, &r), 200);
}

static void idle_and_slow_clients_are_let_go(int port) {
  struct client *c = client_open(port);
  client_expect_end(c); /* never asked anything: the idle time */
  client_close(c);
  c = client_open(port);
  SEND(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  client_read(c, &r, 0);
  client_expect_end(c);
  client_close(c);
  c = client_open(port);
  SEND(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc"); /* never the rest: the request's time */
  while (client_fill(c)) continue;
  CHECK(c->have == 0 || strncmp(c->buf, "HTTP/1.1 408", 12) == 0);
  client_close(c);
}

int main(void) {
  swn_runtime_t *rt = start(2);
  swn_http_options_t options;
  swn_http_server_t *server = NULL, *busy = NULL;
  CHECK_OK(swn_http_options_init(&options, sizeof options));
  options.max_header_bytes = 4096;
  options.max_body_bytes = 1000;
  CHECK_OK(swn_http_server_create(rt, &options, &server));
  CHECK_OK(swn_http_route(server, "GET", "/", hello, NULL));
  CHECK_OK(swn_http_route(server, "POST", "/", hello, NULL));
  int port = swn_http_server_listen(server, "127.0.0.1", 0);
  CHECK(port > 0);
  malformed(port);
  too_large(port);
  /* A taken port is an error, not a server. */
  CHECK_OK(swn_http_server_create(rt, NULL, &busy));
  CHECK_EQ(swn_http_server_listen(busy, "127.0.0.1", (uint16_t)port), -EADDRINUSE);
  CHECK_OK(swn_http_server_destroy(busy));
  CHECK_OK(swn_http_server_stop(server, soon()));
  CHECK_OK(swn_http_server_destroy(server));

  options.idle_timeout_ns = 50 * MS;
  options.request_timeout_ns = 50 * MS;
  options.max_connections = 2;
  CHECK_OK(swn_http_server_create(rt, &options, &server));
  CHECK_OK(swn_http_route(server, "GET", "/", hello, NULL));
  CHECK_OK(swn_http_route(server, "POST", "/", hello, NULL));
  port = swn_http_server_listen(server, "127.0.0.1", 0);
  CHECK(port > 0);
  idle_and_slow_clients_are_let_go(port);
  /* More than may be there at once: each is served in its turn or turned away, and none hangs. */
  struct client *clients[6];
  for (size_t i = 0; i < COUNT(clients); i++) clients[i] = client_open(port);
  int served = 0;
  for (size_t i = 0; i < COUNT(clients); i++) {
    client_send(clients[i], "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 46);
    while (client_fill(clients[i])) continue;
    served += clients[i]->have > 12 && memcmp(clients[i]->buf, "HTTP/1.1 200", 12) == 0;
    client_close(clients[i]);
  }
  CHECK(served >= 1);
  CHECK_OK(swn_http_server_stop(server, soon()));
  CHECK_OK(swn_http_server_destroy(server));
  finish(rt);
  return 0;
}
