/* A raw HTTP client of blocking sockets for the tests: sends bytes as they are, reads one response at a time. */
#ifndef SWN_TEST_HTTP_CLIENT_H
#define SWN_TEST_HTTP_CLIENT_H

#include "check.h"
#include <netinet/in.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>

struct client {
  int fd;
  size_t have; /* bytes of `buf` that no response has taken yet */
  char buf[1 << 16];
};

struct response {
  int status;
  size_t body_len;
  char head[4096];
  char body[1 << 16];
};

static inline struct client *client_open(int port) {
  struct client *c = (struct client *)calloc(1, sizeof *c);
  struct sockaddr_in address;
  struct timeval limit = {60, 0};
  memset(&address, 0, sizeof address);
  address.sin_family = AF_INET;
  address.sin_port = htons((uint16_t)port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(c->fd >= 0);
  CHECK_OK(setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
  CHECK_OK(connect(c->fd, (struct sockaddr *)&address, sizeof address));
  return c;
}

static inline void client_close(struct client *c) {
  close(c->fd);
  free(c);
}

/* 0 when the server has already closed. */
static inline int client_send(struct client *c, const void *data, size_t len) {
  return send(c->fd, data, len, MSG_NOSIGNAL) == (ssize_t)len;
}

#define SEND(c, text) CHECK(client_send(c, text, strlen(text)))

/* More bytes into the buffer; 0 at the end of the stream (a reset is an end too). */
static inline int client_fill(struct client *c) {
  CHECK(c->have < sizeof c->buf);
  ssize_t n = recv(c->fd, c->buf + c->have, sizeof c->buf - c->have, 0);
  if (n < 0) CHECK_EQ(errno, ECONNRESET);
  if (n > 0) c->have += (size_t)n;
  return n > 0;
}

/* Nothing more comes: the server closed. */
static inline void client_expect_end(struct client *c) {
  CHECK_EQ(c->have, 0);
  CHECK(!client_fill(c));
}

static inline void client_take(struct client *c, char *out, size_t len) {
  while (c->have < len) CHECK(client_fill(c));
  memcpy(out, c->buf, len);
  c->have -= len;
  memmove(c->buf, c->buf + len, c->have);
}

static inline const char *header_of(const struct response *r, const char *name) {
  size_t len = strlen(name);
  for (const char *line = strstr(r->head, "\r\n"); line; line = strstr(line + 2, "\r\n"))
    if (strncasecmp(line + 2, name, len) == 0 && line[2 + len] == ':') {
      const char *value = line + 3 + len;
      return value + strspn(value, " ");
    }
  return NULL;
}

/* Reads one response with its body; head_only: to a HEAD request. */
static inline void client_read(struct client *c, struct response *r, int head_only) {
  char *end;
  while (!(end = (char *)memmem(c->buf, c->have, "\r\n\r\n", 4))) CHECK(client_fill(c));
  size_t head = (size_t)(end - c->buf) + 4;
  CHECK(head < sizeof r->head);
  client_take(c, r->head, head);
  r->head[head] = 0;
  CHECK(strncmp(r->head, "HTTP/1.1 ", 9) == 0);
  r->status = atoi(r->head + 9);
  r->body_len = 0;
  const char *length = header_of(r, "Content-Length"), *coding = header_of(r, "Transfer-Encoding");
  CHECK(!(length && coding));
  if (coding && !head_only) {
    CHECK(strncasecmp(coding, "chunked", 7) == 0);
    for (;;) {
      char *line;
      while (!(line = (char *)memmem(c->buf, c->have, "\r\n", 2))) CHECK(client_fill(c));
      char text[32], crlf[2];
      size_t digits = (size_t)(line - c->buf);
      CHECK(digits > 0 && digits < sizeof text);
      client_take(c, text, digits);
      text[digits] = 0;
      client_take(c, crlf, 2);
      size_t size = strtoul(text, NULL, 16);
      CHECK(r->body_len + size < sizeof r->body);
      client_take(c, r->body + r->body_len, size);
      client_take(c, crlf, 2);
      CHECK(memcmp(crlf, "\r\n", 2) == 0);
      r->body_len += size;
      if (size == 0) break;
    }
  } else if (length && !head_only) {
    r->body_len = strtoul(length, NULL, 10);
    CHECK(r->body_len < sizeof r->body);
    client_take(c, r->body, r->body_len);
  }
  r->body[r->body_len] = 0;
}

/* One request on a connection of its own; the status. */
static inline int ask(int port, const char *request, struct response *r) {
  struct client *c = client_open(port);
  SEND(c, request);
  client_read(c, r, 0);
  client_close(c);
  return r->status;
}

#endif
