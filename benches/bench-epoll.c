/* The bar: what a hand-written epoll loop costs for the same work.
 *
 *   bench-epoll tcp_echo|http <workers> <port>
 *
 * Each worker is one thread with its own epoll set. With more than one, each also has its own listener on the port
 * (SO_REUSEPORT), or, with BENCH_LISTEN=shared, all share one (EPOLLEXCLUSIVE). Level-triggered: a connection is read
 * once per event and the answer is written at once; only where the socket does not take all of it does the connection
 * remember the rest, stop reading and wait until it is writable. */
#include "bench.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define BUFFER_BYTES 4096
#define EVENTS 512
#define RESPONSE_COPIES 32

struct worker {
    int epoll, listener;
    pthread_t thread;
    char buffer[BUFFER_BYTES];
};

struct connection {
    int fd;
    bool waits_to_write;
    char *held;      /* echo: read but not yet written; http: the beginning of a request. NULL where held_len is 0 */
    size_t held_len;
    size_t owed;     /* http: bytes of responses not yet written */
};

enum next { KEEP, CLOSE };
typedef enum next (*serve_fn)(struct worker *w, struct connection *c);

static serve_fn serve;
static char responses[RESPONSE_COPIES * BENCH_HTTP_RESPONSE_LEN]; /* pipelined requests are answered in one write */

static void die(const char *what) {
    perror(what);
    exit(1);
}

/* ---- connections -------------------------------------------------------------------------------------------------- */

static bool would_block(void) { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

/* Waits for the socket to take more (and reads nothing meanwhile), or goes back to reading. */
static void wait_to_write(struct worker *w, struct connection *c, bool write) {
    if (c->waits_to_write == write) return;
    c->waits_to_write = write;
    struct epoll_event event = {.events = write ? EPOLLOUT : EPOLLIN, .data.ptr = c};
    epoll_ctl(w->epoll, EPOLL_CTL_MOD, c->fd, &event);
}

/* Keeps a copy of `len` bytes as the held ones. They may lie in the held ones themselves. */
static enum next hold(struct connection *c, const char *bytes, size_t len) {
    char *copy = NULL;
    if (len > 0) {
        copy = malloc(len);
        if (!copy) return CLOSE;
        memcpy(copy, bytes, len);
    }
    free(c->held);
    c->held = copy;
    c->held_len = len;
    return KEEP;
}

static enum next echo_held(struct worker *w, struct connection *c) {
    ssize_t sent = send(c->fd, c->held, c->held_len, MSG_NOSIGNAL);
    if (sent < 0) return would_block() ? KEEP : CLOSE;
    if ((size_t)sent == c->held_len) wait_to_write(w, c, false);
    return hold(c, c->held + sent, c->held_len - (size_t)sent);
}

static enum next serve_echo(struct worker *w, struct connection *c) {
    if (c->held_len > 0) return echo_held(w, c);
    ssize_t got = recv(c->fd, w->buffer, sizeof w->buffer, 0);
    if (got < 0) return would_block() ? KEEP : CLOSE;
    if (got == 0) return CLOSE;
    ssize_t sent = send(c->fd, w->buffer, (size_t)got, MSG_NOSIGNAL);
    if (sent == got) return KEEP;
    if (sent < 0) {
        if (!would_block()) return CLOSE;
        sent = 0;
    }
    wait_to_write(w, c, true);
    return hold(c, w->buffer + sent, (size_t)(got - sent));
}

/* The responses are all alike, so how many bytes are owed also says where in a response to go on. */
static enum next send_owed(struct worker *w, struct connection *c) {
    while (c->owed > 0) {
        size_t start = (BENCH_HTTP_RESPONSE_LEN - c->owed % BENCH_HTTP_RESPONSE_LEN) % BENCH_HTTP_RESPONSE_LEN;
        size_t chunk = sizeof responses - start;
        if (chunk > c->owed) chunk = c->owed;
        ssize_t sent = send(c->fd, responses + start, chunk, MSG_NOSIGNAL);
        if (sent < 0) {
            if (!would_block()) return CLOSE;
            wait_to_write(w, c, true);
            return KEEP;
        }
        c->owed -= (size_t)sent;
    }
    wait_to_write(w, c, false);
    return KEEP;
}

static enum next serve_http(struct worker *w, struct connection *c) {
    if (c->owed > 0) return send_owed(w, c);
    size_t held = c->held_len;
    if (held > 0) memcpy(w->buffer, c->held, held);
    ssize_t got = recv(c->fd, w->buffer + held, sizeof w->buffer - held, 0);
    if (got < 0) return would_block() ? KEEP : CLOSE;
    if (got == 0) return CLOSE;
    size_t len = held + (size_t)got, used;
    c->owed = bench_http_requests(w->buffer, len, held, &used) * BENCH_HTTP_RESPONSE_LEN;
    if (len - used == sizeof w->buffer) return CLOSE; /* a head too long for the buffer */
    if (held > 0 || used < len) {
        if (hold(c, w->buffer + used, len - used) == CLOSE) return CLOSE;
    }
    return send_owed(w, c);
}

static void close_connection(struct connection *c) {
    close(c->fd); /* which also takes it out of the epoll set */
    free(c->held);
    free(c);
}

/* ---- workers ------------------------------------------------------------------------------------------------------ */

/* One per event: the level-triggered set reports the listener again, and where it is shared the next connection may
 * go to another worker. */
static void accept_one(struct worker *w) {
    int one = 1, fd = accept4(w->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return; /* another worker took it, or it was reset before we came */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct connection *c = calloc(1, sizeof *c);
    if (!c) {
        close(fd);
        return;
    }
    c->fd = fd;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(w->epoll, EPOLL_CTL_ADD, fd, &event) != 0) close_connection(c);
}

static void *run_worker(void *arg) {
    struct worker *w = arg;
    struct epoll_event events[EVENTS];
    for (;;) {
        int count = epoll_wait(w->epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c)
                accept_one(w);
            else if (serve(w, c) == CLOSE)
                close_connection(c);
        }
    }
    return NULL;
}

static int open_listener(int port, bool reuse_port) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) die("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (reuse_port) setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0) die("bind");
    if (listen(fd, 4096) != 0) die("listen");
    return fd;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: %s tcp_echo|http <workers> <port>\n", argv[0]);
        return 2;
    }
    if (strcmp(argv[1], "tcp_echo") == 0)
        serve = serve_echo;
    else if (strcmp(argv[1], "http") == 0)
        serve = serve_http;
    else
        return 3;
    int worker_count = atoi(argv[2]), port = atoi(argv[3]);
    if (worker_count < 1 || worker_count > 1024) return 2;
    bench_limit_seconds(100);
    bench_raise_fd_limit();
    for (size_t i = 0; i < RESPONSE_COPIES; i++)
        memcpy(responses + i * BENCH_HTTP_RESPONSE_LEN, BENCH_HTTP_RESPONSE, BENCH_HTTP_RESPONSE_LEN);

    bool shared_listener = strcmp(bench_env("BENCH_LISTEN", "reuseport"), "shared") == 0;
    struct worker *workers = calloc((size_t)worker_count, sizeof *workers);
    if (!workers) die("calloc");
    for (int i = 0; i < worker_count; i++) {
        struct worker *w = &workers[i];
        bool shares = shared_listener && i > 0;
        w->listener = shares ? workers[0].listener : open_listener(port, worker_count > 1 && !shared_listener);
        w->epoll = epoll_create1(EPOLL_CLOEXEC);
        if (w->epoll < 0) die("epoll_create1");
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
        if (shared_listener) event.events |= EPOLLEXCLUSIVE;
        if (epoll_ctl(w->epoll, EPOLL_CTL_ADD, w->listener, &event) != 0) die("epoll_ctl");
    }
    puts("READY");
    fflush(stdout);
    for (int i = 1; i < worker_count; i++)
        if (pthread_create(&workers[i].thread, NULL, run_worker, &workers[i]) != 0) die("pthread_create");
    run_worker(&workers[0]);
    return 0;
}
