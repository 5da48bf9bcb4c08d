/* Our driver: each case does with virtual threads, through swiftnet.h, what the peers' drivers do with theirs.
 *
 *   bench-swiftnet <case> <workers> <n>
 *
 * Prints one line of JSON. For the servers (tcp_echo, http, http_raw) <n> is the port, and it serves until killed; for
 * hog it is the seconds to watch. Exit status 3: no such case. README.md says what each case measures. */
#include "bench.h"

#include <swiftnet.h>

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#define PEER "swiftnet"
#define BATCH 10000            /* spawn_join */
#define FAN_OUT 10             /* skynet */
#define MANY_STACK_BYTES 65536 /* the stack where a case keeps very many vthreads */
#define BUFFER_BYTES 4096
#define RESPONSE_COPIES 32

static int workers;
static long n;
static swn_runtime_t *runtime;

/* ---- small things every case uses --------------------------------------------------------------------------------- */

static void fail(const char *what, int64_t status) {
    fprintf(stderr, "%s: %s\n", what, swn_strerror(status));
    exit(1);
}

static int64_t check(const char *what, int64_t status) {
    if (status < 0) fail(what, status);
    return status;
}

/* Spawns a vthread to be joined. */
static swn_vthread_t spawn(swn_vthread_fn fn, void *arg) {
    swn_vthread_t vthread;
    check("swn_spawn", swn_spawn(runtime, fn, arg, NULL, &vthread));
    return vthread;
}

/* The same, on one core only. */
static swn_vthread_t spawn_on_core(swn_vthread_fn fn, void *arg, uint32_t core) {
    swn_vthread_t vthread;
    swn_spawn_options_t o;
    check("swn_spawn_options_init", swn_spawn_options_init(&o, sizeof o));
    o.flags = SWN_SPAWN_FIXED_CORE;
    o.core = core;
    check("swn_spawn", swn_spawn(runtime, fn, arg, &o, &vthread));
    return vthread;
}

/* Spawns a vthread that nobody joins. */
static void spawn_detached(swn_vthread_fn fn, void *arg) {
    check("swn_spawn", swn_spawn(runtime, fn, arg, NULL, NULL));
}

static void *join(swn_vthread_t vthread) {
    void *result = NULL;
    check("swn_join", swn_join(vthread, &result, SWN_FOREVER));
    return result;
}

static void acquire(swn_sem_t *sem) { check("swn_sem_acquire", swn_sem_acquire(sem, SWN_FOREVER)); }
static void release(swn_sem_t *sem, uint32_t permits) { check("swn_sem_release", swn_sem_release(sem, permits)); }

/* Whether an environment variable says yes to something that needs two cores. */
static bool wants_two_cores(const char *name, const char *value) {
    if (strcmp(bench_env(name, ""), value) != 0) return false;
    if (workers < 2) {
        fprintf(stderr, "%s=%s needs 2 workers\n", name, value);
        exit(2);
    }
    return true;
}

/* ---- yield: two vthreads yield in turn ---------------------------------------------------------------------------- */

static void *yielder(void *arg) {
    (void)arg;
    for (long i = 0; i < n / 2; i++) swn_yield();
    return NULL;
}

static void run_yield(void) {
    struct bench_span s = bench_span_start();
    swn_vthread_t a = spawn(yielder, NULL), b = spawn(yielder, NULL);
    join(a);
    join(b);
    bench_print(PEER, "yield", n, workers, bench_span_stop(s), NULL);
}

/* ---- spawn_join: batches of vthreads that do next to nothing ------------------------------------------------------ */

static atomic_long trivial_runs;

static void *trivial(void *arg) {
    atomic_fetch_add_explicit(&trivial_runs, 1, memory_order_relaxed);
    return arg;
}

/* Spawns and joins as many vthreads as `arg` says, in batches. */
static void *spawn_and_join(void *arg) {
    long count = (long)(intptr_t)arg;
    swn_vthread_t *batch = malloc(BATCH * sizeof *batch);
    if (!batch) fail("batch", -ENOMEM);
    for (long done = 0; done < count; done += BATCH) {
        for (int i = 0; i < BATCH; i++) batch[i] = spawn(trivial, NULL);
        for (int i = 0; i < BATCH; i++) join(batch[i]);
    }
    free(batch);
    return NULL;
}

static void run_spawn_join(void) {
    long batches = (n + BATCH - 1) / BATCH;
    bool both = wants_two_cores("FORCE_BOTH", "1");
    struct bench_span s = bench_span_start();
    if (both) {
        swn_vthread_t a = spawn_on_core(spawn_and_join, (void *)(intptr_t)((batches - batches / 2) * BATCH), 0);
        swn_vthread_t b = spawn_on_core(spawn_and_join, (void *)(intptr_t)(batches / 2 * BATCH), 1);
        join(a);
        join(b);
    } else {
        spawn_and_join((void *)(intptr_t)(batches * BATCH));
    }
    bench_print(PEER, "spawn_join", trivial_runs, workers, bench_span_stop(s), both ? "\"placement\":\"both\"" : NULL);
}

/* ---- pingpong: two vthreads and two semaphores -------------------------------------------------------------------- */

static swn_sem_t ping, pong;

static void *pinger(void *arg) {
    (void)arg;
    for (long i = 0; i < n; i++) {
        release(&ping, 1);
        acquire(&pong);
    }
    return NULL;
}

static void *ponger(void *arg) {
    (void)arg;
    for (long i = 0; i < n; i++) {
        acquire(&ping);
        release(&pong, 1);
    }
    return NULL;
}

static void run_pingpong(void) {
    bool split = wants_two_cores("PLACEMENT", "split");
    struct bench_span s = bench_span_start();
    swn_vthread_t a = split ? spawn_on_core(pinger, NULL, 0) : spawn(pinger, NULL);
    swn_vthread_t b = split ? spawn_on_core(ponger, NULL, 1) : spawn(ponger, NULL);
    join(a);
    join(b);
    bench_print(PEER, "pingpong", n, workers, bench_span_stop(s), split ? "\"placement\":\"split\"" : NULL);
}

/* ---- idle_mem: what a waiting vthread costs ----------------------------------------------------------------------- */

static atomic_long arrived;
static swn_sem_t all_arrived, gate;

static void arrive(void) {
    if (atomic_fetch_add_explicit(&arrived, 1, memory_order_relaxed) + 1 == n) release(&all_arrived, 1);
}

static void *idler(void *arg) {
    (void)arg;
    arrive();
    acquire(&gate);
    return NULL;
}

static void run_idle_mem(void) {
    long rss_before = bench_rss_bytes("self");
    struct bench_span s = bench_span_start();
    for (long i = 0; i < n; i++) spawn_detached(idler, NULL);
    acquire(&all_arrived);
    s = bench_span_stop(s);
    double bytes = (double)(bench_rss_bytes("self") - rss_before) / (double)n;
    bench_print(PEER, "idle_mem", n, workers, s, "\"rss_bytes_per_item\":%.1f,\"note\":\"64 KiB stacks\"", bytes);
    release(&gate, (uint32_t)n);
}

/* ---- skynet: a tree of vthreads, each joining ten children -------------------------------------------------------- */

struct skynet {
    long number, leaves;
};

static void *skynet(void *arg) {
    const struct skynet *node = arg;
    if (node->leaves == 1) return (void *)(intptr_t)node->number;
    struct skynet child[FAN_OUT];
    swn_vthread_t vthread[FAN_OUT];
    long part = node->leaves / FAN_OUT, sum = 0;
    for (int i = 0; i < FAN_OUT; i++) {
        child[i] = (struct skynet){.number = node->number + i * part, .leaves = part};
        vthread[i] = spawn(skynet, &child[i]);
    }
    for (int i = 0; i < FAN_OUT; i++) sum += (long)(intptr_t)join(vthread[i]);
    return (void *)(intptr_t)sum;
}

static void run_skynet(void) {
    long size = n;
    while (size > 1 && size % FAN_OUT == 0) size /= FAN_OUT;
    if (size != 1) {
        fprintf(stderr, "skynet takes a power of %d\n", FAN_OUT);
        exit(2);
    }
    struct bench_span s = bench_span_start();
    struct skynet root = {.number = 0, .leaves = n};
    long sum = (long)(intptr_t)join(spawn(skynet, &root));
    bench_print(PEER, "skynet", n, workers, bench_span_stop(s), "\"sum\":%ld", sum);
}

/* ---- timers: each vthread sleeps once ----------------------------------------------------------------------------- */

static struct bench_histogram timer_late;

static void *sleep_once(void *arg) {
    uint64_t sleep_ns = bench_sleep_us((uint64_t)(intptr_t)arg) * 1000, begin = bench_now_ns();
    swn_sleep_for(sleep_ns);
    bench_histogram_add(&timer_late, (int64_t)(bench_now_ns() - begin) - (int64_t)sleep_ns);
    arrive();
    return NULL;
}

static void run_timers(void) {
    struct bench_span s = bench_span_start();
    for (long i = 0; i < n; i++) spawn_detached(sleep_once, (void *)(intptr_t)i);
    acquire(&all_arrived);
    s = bench_span_stop(s);
    bench_print(PEER, "timers", n, workers, s,
                "\"overrun_ms\":%.2f,\"late_mean_us\":%.1f,\"late_p99_us\":%.1f,\"late_max_us\":%.1f,"
                "\"note\":\"64 KiB stacks\"",
                (double)s.wall_ns / 1e6 - 1000, bench_mean(&timer_late) / 1e3,
                bench_percentile(&timer_late, .99) / 1e3, (double)timer_late.max / 1e3);
}

/* ---- hog: sleepers beside vthreads that never call the runtime ---------------------------------------------------- */

static struct bench_hog hog;
static int silent_pipe[2]; /* nobody writes to it */

static void *sleeper(void *arg) {
    int index = (int)(intptr_t)arg;
    for (;;) {
        bench_hog_sleep_begin(&hog, index);
        swn_sleep_for(BENCH_HOG_SLEEP_NS);
        bench_hog_sleep_end(&hog, index);
    }
    return NULL;
}

static void *hog_spin(void *arg) {
    (void)arg;
    for (uint64_t i = 0;; i++) __asm__ volatile("" : "+r"(i)); /* the compiler may not skip the counting */
    return NULL;
}

static void *hog_malloc(void *arg) {
    (void)arg;
    for (size_t size = 16;; size = size * 5 % 65521) {
        void *memory = malloc(size);
        __asm__ volatile("" : : "r"(memory) : "memory"); /* nor this */
        free(memory);
    }
    return NULL;
}

static void *hog_read(void *arg) {
    char byte;
    while (read(silent_pipe[0], &byte, 1) != 0) {
    }
    return arg;
}

static void run_hog(void) {
    const char *form = bench_env("FORM", "spin");
    swn_vthread_fn fn;
    if (strcmp(form, "spin") == 0)
        fn = hog_spin;
    else if (strcmp(form, "malloc") == 0)
        fn = hog_malloc;
    else if (strcmp(form, "read") == 0)
        fn = hog_read;
    else {
        fputs("FORM: spin, malloc or read\n", stderr);
        exit(2);
    }
    if (pipe(silent_pipe) != 0) fail("pipe", -errno);
    hog.peer = PEER;
    hog.form = form;
    hog.workers = workers;
    hog.hogs = atoi(bench_env("HOGS", "4"));
    hog.seconds = (int)n;
    for (int i = 0; i < BENCH_SLEEPERS; i++) spawn_detached(sleeper, (void *)(intptr_t)i);
    swn_sleep_for(100000000); /* the sleepers find their rhythm */
    /* WARM: the first second beside the hogs, in which each of them uses up its slice, does not count. */
    bool warm = atoi(bench_env("WARM", "0")) != 0;
    if (!warm) bench_hog_watch(&hog);
    for (int i = 0; i < hog.hogs; i++) spawn_detached(fn, NULL);
    if (warm) {
        swn_sleep_for(1000000000);
        bench_hog_watch(&hog);
    }
    swn_sleep_until(SWN_FOREVER); /* the watcher ends the process */
}

/* ---- tcp_echo and http_raw: a vthread per connection, in blocking style ------------------------------------------- */

static swn_vthread_fn serve_connection;
static char responses[RESPONSE_COPIES * BENCH_HTTP_RESPONSE_LEN]; /* pipelined requests are answered in one write */

static void *serve_echo(void *arg) {
    int fd = (int)(intptr_t)arg;
    char buffer[BUFFER_BYTES];
    for (;;) {
        int64_t got = swn_recv(fd, buffer, sizeof buffer, 0, SWN_FOREVER);
        if (got <= 0) break;
        if (swn_write_all(fd, buffer, (size_t)got, SWN_FOREVER) < 0) break;
    }
    swn_close(fd);
    return NULL;
}

static bool send_responses(int fd, size_t count) {
    while (count > 0) {
        size_t now = count < RESPONSE_COPIES ? count : RESPONSE_COPIES;
        if (swn_write_all(fd, responses, now * BENCH_HTTP_RESPONSE_LEN, SWN_FOREVER) < 0) return false;
        count -= now;
    }
    return true;
}

static void *serve_http_raw(void *arg) {
    int fd = (int)(intptr_t)arg;
    char buffer[BUFFER_BYTES];
    size_t held = 0; /* bytes of a request whose end has not come yet */
    while (held < sizeof buffer) {
        int64_t got = swn_recv(fd, buffer + held, sizeof buffer - held, 0, SWN_FOREVER);
        if (got <= 0) break;
        size_t len = held + (size_t)got, used;
        if (!send_responses(fd, bench_http_requests(buffer, len, held, &used))) break;
        held = len - used;
        if (used > 0) memmove(buffer, buffer + used, held);
    }
    swn_close(fd);
    return NULL;
}

static void *accept_connections(void *arg) {
    int listener = (int)(intptr_t)arg, one = 1;
    for (;;) {
        int fd = swn_accept(listener, NULL, NULL, SWN_FOREVER);
        if (fd == -ECANCELED) return NULL; /* the runtime stops */
        if (fd < 0) {
            swn_sleep_for(1000000); /* out of descriptors: others will end */
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (swn_spawn(runtime, serve_connection, (void *)(intptr_t)fd, NULL, NULL) < 0) swn_close(fd);
    }
}

static void serve_until_killed(void) {
    puts("READY");
    fflush(stdout);
    for (;;) pause();
}

/* One listener, or with BENCH_LISTEN=reuseport one for each core, all open before any connection comes. */
static void run_server(swn_vthread_fn serve) {
    bool per_core = strcmp(bench_env("BENCH_LISTEN", "shared"), "reuseport") == 0;
    int listeners = per_core ? workers : 1;
    serve_connection = serve;
    int *fd = malloc((size_t)listeners * sizeof *fd);
    if (!fd) fail("listeners", -ENOMEM);
    for (int i = 0; i < listeners; i++)
        fd[i] = (int)check("swn_tcp_listen",
                           swn_tcp_listen("127.0.0.1", (uint16_t)n, 4096, per_core ? SWN_LISTEN_REUSEPORT : 0));
    for (int i = 0; i < listeners; i++) {
        void *arg = (void *)(intptr_t)fd[i];
        if (per_core)
            check("swn_detach", swn_detach(spawn_on_core(accept_connections, arg, (uint32_t)i)));
        else
            spawn_detached(accept_connections, arg);
    }
    free(fd);
    serve_until_killed();
}

static void run_tcp_echo(void) { run_server(serve_echo); }

static void run_http_raw(void) {
    for (size_t i = 0; i < RESPONSE_COPIES; i++)
        memcpy(responses + i * BENCH_HTTP_RESPONSE_LEN, BENCH_HTTP_RESPONSE, BENCH_HTTP_RESPONSE_LEN);
    run_server(serve_http_raw);
}

/* ---- http: the library's own server ------------------------------------------------------------------------------- */

static void hello(void *arg, swn_http_exchange_t *x) {
    (void)arg;
    swn_http_respond(x, 200, "text/plain", "Hello, World!", 13);
}

static void run_http(void) {
    swn_http_server_t *server;
    check("swn_http_server_create", swn_http_server_create(runtime, NULL, &server));
    check("swn_http_route", swn_http_route(server, "GET", "/", hello, NULL));
    check("swn_http_server_listen", swn_http_server_listen(server, "127.0.0.1", (uint16_t)n));
    serve_until_killed();
}

/* ---- the program -------------------------------------------------------------------------------------------------- */

struct bench_case {
    const char *name;
    void (*run)(void);
    bool is_server;     /* runs on the process's first thread; the others run inside a vthread */
    size_t stack_bytes; /* 0: the runtime's default */
};

static const struct bench_case cases[] = {
    {"yield", run_yield, false, 0},
    {"spawn_join", run_spawn_join, false, 0},
    {"pingpong", run_pingpong, false, 0},
    {"idle_mem", run_idle_mem, false, MANY_STACK_BYTES},
    {"hog", run_hog, false, 0},
    {"tcp_echo", run_tcp_echo, true, 0},
    {"http", run_http, true, 0},
    {"http_raw", run_http_raw, true, 0},
    {"skynet", run_skynet, false, 0},
    {"timers", run_timers, false, MANY_STACK_BYTES},
};

static const struct bench_case *find_case(const char *name) {
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (strcmp(cases[i].name, name) == 0) return &cases[i];
    return NULL;
}

static void *run_case(void *arg) {
    const struct bench_case *c = arg;
    c->run();
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: %s <case> <workers> <n>\n", argv[0]);
        return 2;
    }
    const struct bench_case *c = find_case(argv[1]);
    if (!c) return 3;
    workers = atoi(argv[2]);
    n = atol(argv[3]);
    if (workers < 1 || n < 1 || n > SWN_SEM_MAX) {
        fputs("out of range\n", stderr);
        return 2;
    }
    bench_limit_seconds(100);
    bench_raise_fd_limit();

    swn_runtime_options_t o;
    check("swn_runtime_options_init", swn_runtime_options_init(&o, sizeof o));
    o.cores = (uint32_t)workers;
    o.stack_bytes = c->stack_bytes;
    check("swn_runtime_start", swn_runtime_start(&o, &runtime));
    if (c->is_server)
        c->run();
    else
        join(spawn(run_case, (void *)c));
    check("swn_runtime_stop", swn_runtime_stop(runtime, swn_deadline_after(20000000000u)));
    check("swn_runtime_destroy", swn_runtime_destroy(runtime));
    return 0;
}
