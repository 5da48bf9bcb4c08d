/* HTTP: routes, parameters, queries, headers and bodies; keep-alive, pipelining, byte-wise arrival; chunked both
 * ways; what a handler may do wrong. */
#include "http_client.h"

static struct response r;

static int text_is(swn_str_t text, const char *expected) {
  return text.len == strlen(expected) && memcmp(text.ptr, expected, text.len) == 0;
}

static void hello(void *arg, swn_http_exchange_t *x) {
  swn_str_t value;
  CHECK(arg == &r);
  CHECK(swn_self() != 0);
  CHECK_OK(swn_http_method(x, &value));
  CHECK(text_is(value, "GET") || text_is(value, "HEAD"));
  CHECK_OK(swn_http_respond(x, 200, "text/plain", "Hello, World!", 13));
  CHECK(swn_http_respond(x, 200, "text/plain", "again", 5) < 0);
  CHECK(swn_http_set_header(x, "X-Late", "1") < 0);
  CHECK(swn_http_chunked_begin(x, 200, "text/plain") < 0);
}

/* Answers with what it understood, one item a line. */
static void mirror(void *arg, swn_http_exchange_t *x) {
  char text[8192];
  swn_str_t id = {NULL, 0}, query, header = {"none", 4}, body, path;
  (void)arg;
  swn_http_param(x, "id", &id);
  CHECK_EQ(swn_http_param(x, "nothing", &body), -ENOENT);
  CHECK_OK(swn_http_query(x, &query));
  CHECK_OK(swn_http_path(x, &path));
  swn_http_header(x, "x-MIXED-case", &header);
  CHECK_EQ(swn_http_header(x, "X-Nothing", &body), -ENOENT);
  CHECK_OK(swn_http_body(x, &body));
  CHECK_OK(swn_sleep_for(MS / 10)); /* a handler may wait; what it borrowed stays */
  int n = snprintf(text, sizeof text, "%.*s|%.*s|%.*s|%.*s|%.*s", (int)id.len, id.ptr, (int)path.len, path.ptr,
                   (int)query.len, query.ptr, (int)header.len, header.ptr, (int)body.len, body.ptr);
  CHECK_OK(swn_http_set_header(x, "X-Own", "yes"));
  CHECK_EQ(swn_http_set_header(x, "X-Bad", "a\r\nInjected: 1"), -EINVAL);
  CHECK_EQ(swn_http_set_header(x, "X\r\nInjected", "1"), -EINVAL);
  CHECK_OK(swn_http_respond(x, 201, "text/plain", text, (size_t)n));
}

static void chunks(void *arg, swn_http_exchange_t *x) {
  (void)arg;
  CHECK(swn_http_chunked_write(x, "early", 5) < 0);
  CHECK_OK(swn_http_chunked_begin(x, 200, "text/plain"));
  for (int i = 0; i < 100; i++) {
    char line[16];
    int status = swn_http_chunked_write(x, line, (size_t)snprintf(line, sizeof line, "line %d\n", i));
    if (status == -ECONNRESET || status == -EPIPE) return; /* clients_may_go_away */
    CHECK_OK(status);
    status = swn_http_chunked_write(x, "", 0); /* not the end */
    if (status == -ECONNRESET || status == -EPIPE) return;
    CHECK_OK(status);
    if (i % 10 == 0) CHECK_OK(swn_sleep_for(MS / 10));
  }
  CHECK_OK(swn_http_chunked_end(x));
  CHECK(swn_http_chunked_write(x, "late", 4) < 0);
}

static void silent(void *arg, swn_http_exchange_t *x) { (void)arg, (void)x; }

static void unfinished(void *arg, swn_http_exchange_t *x) {
  (void)arg;
  CHECK_OK(swn_http_chunked_begin(x, 200, "text/plain"));
  CHECK_OK(swn_http_chunked_write(x, "part", 4));
}

static void requests_and_routes(int port) {
  CHECK_EQ(ask(port, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", &r), 200);
  CHECK(strcmp(r.body, "Hello, World!") == 0);
  CHECK(strncmp(header_of(&r, "Content-Type"), "text/plain", 10) == 0);
  CHECK_EQ(ask(port, "GET /user/42?a=b&c=%20 HTTP/1.1\r\nHost: x\r\nX-Mixed-Case: seen\r\n\r\n", &r), 201);
  CHECK(strcmp(r.body, "42|/user/42|a=b&c=%20|seen|") == 0);
  CHECK(strncmp(header_of(&r, "X-Own"), "yes", 3) == 0);
  CHECK(header_of(&r, "Injected") == NULL && header_of(&r, "X-Bad") == NULL);
  CHECK_EQ(ask(port, "POST /user/7 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody", &r), 201);
  CHECK(strcmp(r.body, "7|/user/7||none|body") == 0);
  CHECK_EQ(ask(port, "POST /user/7 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                     "3\r\nabc\r\n5;ext=1\r\ndefgh\r\n0\r\nTrailer: t\r\n\r\n", &r), 201);
  CHECK(strcmp(r.body, "7|/user/7||none|abcdefgh") == 0);
  CHECK_EQ(ask(port, "GET /chunks HTTP/1.1\r\nHost: x\r\n\r\n", &r), 200);
  CHECK(strncmp(r.body, "line 0\nline 1\n", 14) == 0 && r.body_len == 10 * 7 + 90 * 8);

  CHECK_EQ(ask(port, "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", &r), 404);
  CHECK_EQ(ask(port, "GET /user HTTP/1.1\r\nHost: x\r\n\r\n", &r), 404);
  CHECK_EQ(ask(port, "DELETE /user/1 HTTP/1.1\r\nHost: x\r\n\r\n", &r), 405);
  CHECK(header_of(&r, "Allow") != NULL);
  CHECK_EQ(ask(port, "GET /silent HTTP/1.1\r\nHost: x\r\n\r\n", &r), 500);
}

static void connections_are_kept(int port) {
  struct client *c = client_open(port);
  for (int i = 0; i < 100; i++) {
    SEND(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    client_read(c, &r, 0);
    CHECK_EQ(r.status, 200);
  }
  /* An error of the application does not end the connection. */
  SEND(c, "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n");
  client_read(c, &r, 0);
  CHECK_EQ(r.status, 404);
  /* HEAD: the length, not the body. */
  SEND(c, "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n");
  client_read(c, &r, 1);
  CHECK_EQ(r.status, 200);
  CHECK_EQ(atoi(header_of(&r, "Content-Length")), 13);
  SEND(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  client_read(c, &r, 0);
  CHECK_EQ(r.status, 200);
  client_expect_end(c);
  client_close(c);

  /* HTTP/1.0: closed after the answer unless the client asks otherwise; never chunked. */
  c = client_open(port);
  SEND(c, "GET / HTTP/1.0\r\n\r\n");
  client_read(c, &r, 0);
  CHECK_EQ(r.status, 200);
  client_expect_end(c);
  client_close(c);
}

static void pipelined_requests_are_answered_in_order(int port) {
  struct client *c = client_open(port);
  char many[4096], *at = many;
  for (int i = 0; i < 30; i++) at += sprintf(at, "GET /user/%d HTTP/1.1\r\nHost: x\r\n\r\n", i);
  SEND(c, many);
  for (int i = 0; i < 30; i++) {
    char expected[64];
    client_read(c, &r, 0);
    sprintf(expected, "%d|/user/%d||none|", i, i);
    CHECK(strcmp(r.body, expected) == 0);
  }
  /* A body and the next request in one packet. */
  SEND(c, "POST /user/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: x\r\n\r\n");
  client_read(c, &r, 0);
  CHECK(strcmp(r.body, "1|/user/1||none|abc") == 0);
  client_read(c, &r, 0);
  CHECK(strcmp(r.body, "Hello, World!") == 0);
  /* A body that the handler never looked at does not become a request. */
  SEND(c, "POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 27\r\n\r\nGET /x HTTP/1.1\r\nHost: x\r\n\r\n");
  client_read(c, &r, 0);
  CHECK_EQ(r.status, 404);
  client_close(c);
}

static void bytes_may_come_one_by_one(int port) {
  static const char request[] = "POST /user/5?q HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok";
  struct client *c = client_open(port);
  for (size_t i = 0; i < sizeof request - 1; i++) {
    CHECK(client_send(c, request + i, 1));
    if (i % 8 == 0) usleep(200);
  }
  client_read(c, &r, 0);
  CHECK(strcmp(r.body, "5|/user/5|q|none|ok") == 0);
  client_close(c);
}

static void an_unfinished_answer_ends_the_connection(int port) {
  struct client *c = client_open(port);
  SEND(c, "GET /unfinished HTTP/1.1\r\nHost: x\r\n\r\n");
  while (client_fill(c)) continue;
  /* Either ended for the handler, or cut off: never another request after a half answer. */
  CHECK(memmem(c->buf, c->have, "part", 4) != NULL);
  client_close(c);
}

static void clients_may_go_away(int port) {
  for (int i = 0; i < 50; i++) {
    struct client *c = client_open(port);
    static const char *const halves[] = {"", "GET", "GET / HTTP/1.1\r\nHo", "GET /chunks HTTP/1.1\r\nHost: x\r\n\r\n",
                                         "POST /user/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc"};
    SEND(c, halves[i % 5]);
    if (i % 2) {
      struct linger reset = {1, 0};
      CHECK_OK(setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset));
    }
    client_close(c);
  }
}

int main(void) {
  swn_runtime_t *rt = start(2);
  swn_http_server_t *server = NULL;
  CHECK_OK(swn_http_server_create(rt, NULL, &server));
  CHECK_OK(swn_http_route(server, "GET", "/", hello, &r));
  CHECK_OK(swn_http_route(server, "GET", "/user/{id}", mirror, NULL));
  CHECK_OK(swn_http_route(server, "POST", "/user/{id}", mirror, NULL));
  CHECK_OK(swn_http_route(server, "GET", "/chunks", chunks, NULL));
  CHECK_OK(swn_http_route(server, "GET", "/silent", silent, NULL));
  CHECK_OK(swn_http_route(server, "GET", "/unfinished", unfinished, NULL));
  CHECK(swn_http_route(server, "GET", "/user/{id}", mirror, NULL) < 0);      /* taken */
  CHECK_EQ(swn_http_route(server, "GET", "/user/{id", mirror, NULL), -EINVAL); /* not a pattern */
  CHECK_EQ(swn_http_route(server, "GET", "no-slash", mirror, NULL), -EINVAL);
  int port = swn_http_server_listen(server, "127.0.0.1", 0);
  CHECK(port > 0);
  CHECK(swn_http_route(server, "GET", "/late", hello, NULL) < 0);
  CHECK_EQ(swn_http_server_destroy(server), -EBUSY);

  requests_and_routes(port);
  connections_are_kept(port);
  pipelined_requests_are_answered_in_order(port);
  bytes_may_come_one_by_one(port);
  an_unfinished_answer_ends_the_connection(port);
  clients_may_go_away(port);
  CHECK_EQ(ask(port, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", &r), 200);

  CHECK_OK(swn_http_server_stop(server, soon()));
  CHECK_OK(swn_http_server_destroy(server));
  CHECK_EQ(swn_http_server_destroy(server), SWN_ESTALE_HANDLE);
  finish(rt);
  return 0;
}
