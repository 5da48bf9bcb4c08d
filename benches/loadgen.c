/* Closed-loop load over loopback: one thread, one epoll set.
 *
 *   loadgen echo <port> <conns> <msg_bytes> <warm_s> <secs> <server_pid>[,<pid>...] <peer> <workers>
 *   loadgen http <port> <conns> <path>      <warm_s> <secs> <server_pid>[,<pid>...] <peer> <workers>
 *
 * Each connection sends a request, waits for the whole answer, and sends the next. After the warm-up the latencies
 * count, and the CPU time that the server's processes use is read from /proc at both ends. Prints one line of JSON. */
#include "bench.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define READ_BYTES 65536
#define EVENTS 512
#define MAX_CONNS 20000
#define MAX_SECONDS 60

struct connection {
    int fd;
    size_t to_send;    /* of the request, from its end */
    size_t to_receive; /* of the answer; http: of its body, where the length is known */
    char *held;        /* http: the beginning of an answer whose length is not known yet */
    size_t held_len;
    uint64_t sent_ns;
};

enum progress { WAITS, ANSWERED, FAILED };

static bool http;
static const char *request;
static size_t request_len;
static int epoll;
static char input[READ_BYTES];
static struct bench_histogram latency;
static uint64_t answered, errors, refused; /* refused: answers with a status other than 2xx */

static void die(const char *what) {
    perror(what);
    exit(1);
}

/* ---- the server's processes --------------------------------------------------------------------------------------- */

/* Two clocks. The scheduler's own is exact but only of threads that live; the process's includes those that ended but
 * counts whole ticks (10 ms). */
struct server_cpu {
    int64_t threads_ns, process_ns;
};

static int64_t tick_ns(void) { return 1000000000 / sysconf(_SC_CLK_TCK); }

static int64_t threads_cpu_ns(const char *pid) {
    char path[320];
    int64_t total = 0;
    snprintf(path, sizeof path, "/proc/%s/task", pid);
    DIR *tasks = opendir(path);
    if (!tasks) return 0;
    for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
        unsigned long long ran_ns;
        snprintf(path, sizeof path, "/proc/%s/task/%s/schedstat", pid, task->d_name);
        FILE *f = task->d_name[0] == '.' ? NULL : fopen(path, "r");
        if (!f) continue;
        if (fscanf(f, "%llu", &ran_ns) == 1) total += (int64_t)ran_ns;
        fclose(f);
    }
    closedir(tasks);
    return total;
}

static int64_t process_cpu_ns(const char *pid) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%s/stat", pid);
    FILE *f = fopen(path, "r");
    if (!f) return 0;
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    unsigned long user = 0, sys = 0;
    char *after_name = strrchr(text, ')'); /* the name may hold anything, also spaces */
    if (after_name) sscanf(after_name + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &sys);
    return (int64_t)(user + sys) * tick_ns();
}

struct server {
    char *pid[64];
    int pids;
};

static struct server parse_pids(char *list) {
    struct server s = {.pids = 0};
    for (char *pid = strtok(list, ","); pid && s.pids < 64; pid = strtok(NULL, ",")) s.pid[s.pids++] = pid;
    return s;
}

static struct server_cpu server_cpu(const struct server *s) {
    struct server_cpu c = {0, 0};
    for (int i = 0; i < s->pids; i++) {
        c.threads_ns += threads_cpu_ns(s->pid[i]);
        c.process_ns += process_cpu_ns(s->pid[i]);
    }
    return c;
}

/* The exact clock, unless the other says more than its coarseness explains: then threads ended in between. */
static double server_cpu_used_ns(const struct server *s, struct server_cpu before, struct server_cpu after) {
    int64_t threads = after.threads_ns - before.threads_ns, process = after.process_ns - before.process_ns;
    return (double)(process > threads + 2 * tick_ns() * s->pids ? process : threads);
}

static long server_rss(const struct server *s) {
    long total = 0;
    for (int i = 0; i < s->pids; i++) total += bench_rss_bytes(s->pid[i]);
    return total;
}

/* ---- HTTP answers ------------------------------------------------------------------------------------------------- */

/* The value of a header in a head that ends at `end`, or NULL. */
static const char *header(const char *head, const char *end, const char *name) {
    size_t name_len = strlen(name);
    for (const char *line = head; (line = memmem(line, (size_t)(end - line), "\r\n", 2)) != NULL;) {
        line += 2;
        if ((size_t)(end - line) <= name_len || strncasecmp(line, name, name_len) != 0 || line[name_len] != ':') continue;
        const char *value = line + name_len + 1;
        while (value < end && (*value == ' ' || *value == '\t')) value++;
        return value;
    }
    return NULL;
}

/* Whether the chunked body at `body` is complete; more bytes than it has are a failure. Trailers are not expected. */
static enum progress chunked_body(const char *body, const char *end) {
    for (;;) {
        const char *line_end = memmem(body, (size_t)(end - body), "\r\n", 2);
        if (!line_end) return WAITS;
        char *digits_end;
        unsigned long size = strtoul(body, &digits_end, 16);
        if (digits_end == body || size > READ_BYTES) return FAILED;
        body = line_end + 2;
        if ((size_t)(end - body) < size + 2) return WAITS;
        body += size + 2;
        if (size == 0) return body == end ? ANSWERED : FAILED;
    }
}

/* Looks at an answer of which `len` bytes are there. WAITS with c->to_receive set: that much body is to come. */
static enum progress parse_answer(struct connection *c, const char *text, size_t len) {
    const char *end = text + len, *head_end = memmem(text, len, "\r\n\r\n", 4);
    if (!head_end) return WAITS;
    const char *body = head_end + 4;
    if (len < 12 || memcmp(text, "HTTP/1.", 7) != 0) return FAILED;
    head_end += 2; /* with the line break of the last header */
    enum progress progress;
    const char *length = header(text, head_end, "Content-Length"), *coding;
    if (length) {
        size_t size = strtoul(length, NULL, 10), there = (size_t)(end - body);
        if (there > size) return FAILED;
        c->to_receive = size - there;
        progress = there == size ? ANSWERED : WAITS;
    } else if ((coding = header(text, head_end, "Transfer-Encoding")) && strncasecmp(coding, "chunked", 7) == 0) {
        progress = chunked_body(body, end);
    } else {
        return FAILED; /* its end would be the end of the connection */
    }
    if (text[9] != '2' && (progress == ANSWERED || c->to_receive > 0)) refused++;
    return progress;
}

static enum progress http_received(struct connection *c, size_t got) {
    if (c->to_receive > 0) {
        if (got > c->to_receive) return FAILED;
        c->to_receive -= got;
        return c->to_receive == 0 ? ANSWERED : WAITS;
    }
    const char *text = input;
    size_t len = got;
    if (c->held_len > 0) { /* put together what came in pieces */
        if (c->held_len + got > READ_BYTES) return FAILED;
        c->held = realloc(c->held, READ_BYTES);
        if (!c->held) die("realloc");
        memcpy(c->held + c->held_len, input, got);
        text = c->held;
        len = c->held_len + got;
    }
    enum progress progress = parse_answer(c, text, len);
    if (progress != WAITS || c->to_receive > 0) {
        c->held_len = 0;
    } else {
        if (c->held_len == 0) {
            c->held = realloc(c->held, len);
            if (!c->held) die("realloc");
            memcpy(c->held, input, len);
        }
        c->held_len = len;
    }
    return progress;
}

/* ---- connections -------------------------------------------------------------------------------------------------- */

static enum progress send_request(struct connection *c) {
    size_t before = c->to_send;
    while (c->to_send > 0) {
        ssize_t sent = send(c->fd, request + (request_len - c->to_send), c->to_send, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EAGAIN) break;
            return FAILED;
        }
        c->to_send -= (size_t)sent;
    }
    bool waited = before < request_len;
    if (c->to_send > 0 || waited) { /* a request larger than the socket takes at once */
        struct epoll_event event = {.events = EPOLLIN | (c->to_send > 0 ? (uint32_t)EPOLLOUT : 0), .data.ptr = c};
        epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event);
    }
    return WAITS;
}

static enum progress begin_request(struct connection *c) {
    c->to_send = request_len;
    c->to_receive = http ? 0 : request_len;
    c->sent_ns = bench_now_ns();
    return send_request(c);
}

static enum progress receive(struct connection *c) {
    ssize_t got = recv(c->fd, input, sizeof input, 0);
    if (got < 0) return errno == EAGAIN ? WAITS : FAILED;
    if (got == 0) return FAILED;
    if (http) return http_received(c, (size_t)got);
    if ((size_t)got > c->to_receive) return FAILED;
    c->to_receive -= (size_t)got;
    return c->to_receive == 0 ? ANSWERED : WAITS;
}

static void open_connection(struct connection *c, int port) {
    int one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0) die("socket");
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) != 0) die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event) != 0) die("epoll_ctl");
}

static void give_up(struct connection *c) {
    errors++;
    close(c->fd);
}

/* One event of one connection. */
static void serve(struct connection *c, uint32_t events, bool measuring) {
    enum progress progress = WAITS;
    if (c->to_send > 0 && (events & EPOLLOUT)) progress = send_request(c);
    if (progress == WAITS && (events & ~(uint32_t)EPOLLOUT)) progress = receive(c);
    if (progress == ANSWERED) {
        if (measuring) {
            bench_histogram_add(&latency, (int64_t)(bench_now_ns() - c->sent_ns));
            answered++;
        }
        progress = begin_request(c);
    }
    if (progress == FAILED) give_up(c);
}

static char *make_request(const char *what, int port) {
    char *text;
    if (http) {
        if (asprintf(&text, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n", what, port) < 0) die("asprintf");
        request_len = strlen(text);
    } else {
        request_len = strtoul(what, NULL, 10);
        text = malloc(request_len);
        if (!text) die("malloc");
        memset(text, 'x', request_len);
    }
    return text;
}

int main(int argc, char **argv) {
    if (argc != 10 || (strcmp(argv[1], "echo") != 0 && strcmp(argv[1], "http") != 0)) {
        fprintf(stderr, "usage: %s echo|http <port> <conns> <msg_bytes|path> <warm_s> <secs> <server_pid>[,...] "
                        "<peer> <workers>\n", argv[0]);
        return 2;
    }
    http = strcmp(argv[1], "http") == 0;
    int port = atoi(argv[2]), conns = atoi(argv[3]);
    double warm_s = atof(argv[5]), secs = atof(argv[6]);
    request = make_request(argv[4], port);
    if (conns < 1 || conns > MAX_CONNS || request_len == 0 || secs <= 0 || warm_s + secs > MAX_SECONDS) {
        fputs("out of range\n", stderr);
        return 2;
    }
    struct server server = parse_pids(argv[7]);
    bench_limit_seconds(100);
    bench_raise_fd_limit();
    epoll = epoll_create1(EPOLL_CLOEXEC);
    struct connection *connections = calloc((size_t)conns, sizeof *connections);
    if (epoll < 0 || !connections) die("set-up");

    long rss_before = server_rss(&server);
    for (int i = 0; i < conns; i++) open_connection(&connections[i], port);
    for (int i = 0; i < conns; i++)
        if (begin_request(&connections[i]) == FAILED) give_up(&connections[i]);

    uint64_t now = bench_now_ns(), measure_at = now + (uint64_t)(warm_s * 1e9);
    uint64_t end_at = measure_at + (uint64_t)(secs * 1e9), measured_from = 0, own_cpu = 0;
    struct server_cpu cpu_before = {0, 0};
    struct epoll_event events[EVENTS];
    while (now < end_at && errors < (uint64_t)conns) {
        int count = epoll_wait(epoll, events, EVENTS, 200);
        now = bench_now_ns();
        if (measured_from == 0 && now >= measure_at) {
            measured_from = now;
            cpu_before = server_cpu(&server);
            own_cpu = bench_cpu_ns();
        }
        for (int i = 0; i < count; i++) serve(events[i].data.ptr, events[i].events, measured_from != 0);
    }
    now = bench_now_ns();
    struct server_cpu cpu_after = server_cpu(&server);
    own_cpu = bench_cpu_ns() - own_cpu;
    if (answered == 0) {
        fprintf(stderr, "no request answered, %llu connections failed\n", (unsigned long long)errors);
        return 1;
    }

    double wall_ns = (double)(now - measured_from), server_ns = server_cpu_used_ns(&server, cpu_before, cpu_after);
    double millions = (double)answered / 1e6;
    printf("{\"peer\":\"%s\",\"case\":\"%s\",\"n\":%d,\"workers\":%d,\"client\":\"loadgen\",\"ops_per_s\":%.0f,"
           "\"lat_p50_us\":%.1f,\"lat_p99_us\":%.1f,\"lat_max_us\":%.1f,\"server_cpu_s_per_mreq\":%.3f,"
           "\"loadgen_cpu_s_per_mreq\":%.3f,\"server_cpu_share\":%.2f,\"rss_bytes_per_item\":%.0f,\"requests\":%llu,"
           "\"errors\":%llu,\"non2xx\":%llu}\n",
           argv[8], http ? "http" : "tcp_echo", conns, atoi(argv[9]), (double)answered / (wall_ns / 1e9),
           bench_percentile(&latency, .5) / 1e3, bench_percentile(&latency, .99) / 1e3, (double)latency.max / 1e3,
           server_ns / 1e9 / millions, (double)own_cpu / 1e9 / millions, server_ns / wall_ns,
           (double)(server_rss(&server) - rss_before) / conns, (unsigned long long)answered,
           (unsigned long long)errors, (unsigned long long)refused);
    return 0;
}
