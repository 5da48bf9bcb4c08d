/* Measuring helpers that the drivers and the load generator share: clocks, resident memory, a latency histogram, the
 * one line of JSON that every driver prints, the watcher of the `hog` case, and the HTTP request and response that
 * the bare drivers serve. Include it before anything else: it asks for the GNU extensions. */
#ifndef BENCH_H
#define BENCH_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

/* ---- clocks and memory ------------------------------------------------------------------------------------------ */

static inline uint64_t bench_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* CPU time of the whole process so far, all threads, user and system. */
static inline uint64_t bench_cpu_ns(void) {
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return ((uint64_t)r.ru_utime.tv_sec + (uint64_t)r.ru_stime.tv_sec) * 1000000000u +
           ((uint64_t)r.ru_utime.tv_usec + (uint64_t)r.ru_stime.tv_usec) * 1000u;
}

/* Resident bytes of a process; `pid` is a number or "self". 0 where it cannot be read. */
static inline long bench_rss_bytes(const char *pid) {
    char path[64];
    long total_pages, resident_pages = 0;
    snprintf(path, sizeof path, "/proc/%s/statm", pid);
    FILE *f = fopen(path, "r");
    if (!f) return 0;
    if (fscanf(f, "%ld %ld", &total_pages, &resident_pages) != 2) resident_pages = 0;
    fclose(f);
    return resident_pages * sysconf(_SC_PAGESIZE);
}

/* A timed region: bench_span_start before, bench_span_stop after; then both fields are durations. */
struct bench_span {
    uint64_t wall_ns, cpu_ns;
};

static inline struct bench_span bench_span_start(void) {
    struct bench_span s;
    s.cpu_ns = bench_cpu_ns(); /* the dearer clock is read outside the wall time */
    s.wall_ns = bench_now_ns();
    return s;
}

static inline struct bench_span bench_span_stop(struct bench_span s) {
    s.wall_ns = bench_now_ns() - s.wall_ns;
    s.cpu_ns = bench_cpu_ns() - s.cpu_ns;
    return s;
}

/* ---- the result line -------------------------------------------------------------------------------------------- */

/* Prints the line of a finished region of `n` operations. `extra` is a printf format for more members (without the
 * leading comma), or NULL. */
__attribute__((format(printf, 6, 7))) static inline void bench_print(const char *peer, const char *name, long n,
                                                                     int workers, struct bench_span s,
                                                                     const char *extra, ...) {
    printf("{\"peer\":\"%s\",\"case\":\"%s\",\"n\":%ld,\"workers\":%d,\"ns_per_op\":%.2f,\"cpu_ns_per_op\":%.2f,"
           "\"wall_s\":%.4f,\"cpu_s\":%.4f",
           peer, name, n, workers, (double)s.wall_ns / (double)n, (double)s.cpu_ns / (double)n,
           (double)s.wall_ns / 1e9, (double)s.cpu_ns / 1e9);
    if (extra) {
        va_list args;
        va_start(args, extra);
        putchar(',');
        vprintf(extra, args);
        va_end(args);
    }
    puts("}");
    fflush(stdout);
}

/* ---- latency histogram ------------------------------------------------------------------------------------------ */

/* Log-linear: exact below 32, then 32 buckets for each power of two (a bucket is at most 3 % wide). Any thread may
 * add; read it when the writers are done, or accept that the last few are missing. */
#define BENCH_BUCKETS (64 * 32)
struct bench_histogram {
    _Atomic uint64_t bucket[BENCH_BUCKETS];
    _Atomic uint64_t count, sum, max;
};

static inline int bench_bucket_of(uint64_t value) {
    if (value < 32) return (int)value;
    int exponent = 63 - __builtin_clzll(value);
    return (exponent - 4) * 32 + (int)((value >> (exponent - 5)) & 31);
}

/* The lower bound of a bucket. */
static inline double bench_bucket_value(int bucket) {
    if (bucket < 32) return bucket;
    int exponent = bucket / 32 + 4;
    return (double)((uint64_t)(32 + bucket % 32) << (exponent - 5));
}

/* Negative values (a sleep that ended early) count as 0. */
static inline void bench_histogram_add(struct bench_histogram *h, int64_t value) {
    uint64_t v = value < 0 ? 0 : (uint64_t)value;
    atomic_fetch_add_explicit(&h->bucket[bench_bucket_of(v)], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->count, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum, v, memory_order_relaxed);
    uint64_t max = atomic_load_explicit(&h->max, memory_order_relaxed);
    while (v > max && !atomic_compare_exchange_weak_explicit(&h->max, &max, v, memory_order_relaxed,
                                                             memory_order_relaxed)) {
    }
}

static inline double bench_percentile(struct bench_histogram *h, double p) {
    uint64_t count = h->count, seen = 0, wanted = (uint64_t)(p * (double)count);
    if (count == 0) return 0;
    for (int i = 0; i < BENCH_BUCKETS; i++) {
        seen += h->bucket[i];
        if (seen > wanted) return bench_bucket_value(i);
    }
    return (double)h->max;
}

static inline double bench_mean(struct bench_histogram *h) {
    return h->count ? (double)h->sum / (double)h->count : 0;
}

/* ---- timers ----------------------------------------------------------------------------------------------------- */

/* The i-th sleep of the `timers` case in microseconds: 10 to 1000 ms, the same sequence in every driver. */
static inline uint64_t bench_sleep_us(uint64_t i) {
    uint64_t x = (i + 1) * 0x9E3779B97F4A7C15u;
    x ^= x >> 29;
    x *= 0xBF58476D1CE4E5B9u;
    x ^= x >> 32;
    return 10000 + x % 990001;
}

/* ---- hog -------------------------------------------------------------------------------------------------------- */

/* 100 sleepers call bench_hog_sleep_begin and _end around each sleep of 1 ms. Once bench_hog_watch was called, the
 * lateness counts; after `seconds` an OS thread of its own prints the line and ends the process, because by then the
 * runtime under test may not run anything else any more. */
#define BENCH_SLEEPERS 100
#define BENCH_HOG_SLEEP_NS 1000000u
#define BENCH_STUCK_NS 100000000u /* a sleeper overdue by more than this at the end is stuck */
struct bench_hog {
    const char *peer, *form;
    int workers, hogs, seconds;
    _Atomic bool watching;
    _Atomic uint64_t deadline_ns[BENCH_SLEEPERS]; /* 0: not in a sleep */
    struct bench_histogram late;
};

static inline void bench_hog_sleep_begin(struct bench_hog *h, int sleeper) {
    atomic_store_explicit(&h->deadline_ns[sleeper], bench_now_ns() + BENCH_HOG_SLEEP_NS, memory_order_relaxed);
}

static inline void bench_hog_sleep_end(struct bench_hog *h, int sleeper) {
    uint64_t deadline = atomic_exchange_explicit(&h->deadline_ns[sleeper], 0, memory_order_relaxed);
    if (atomic_load_explicit(&h->watching, memory_order_relaxed))
        bench_histogram_add(&h->late, (int64_t)(bench_now_ns() - deadline));
}

static inline void *bench_hog_report(void *arg) {
    struct bench_hog *h = arg;
    struct timespec pause = {.tv_sec = h->seconds};
    uint64_t begin = bench_now_ns();
    nanosleep(&pause, NULL);
    uint64_t now = bench_now_ns(), wakeups = h->late.count;
    int stuck = 0;
    for (int i = 0; i < BENCH_SLEEPERS; i++) {
        uint64_t deadline = h->deadline_ns[i];
        if (deadline != 0 && now > deadline + BENCH_STUCK_NS) {
            stuck++;
            bench_histogram_add(&h->late, (int64_t)(now - deadline));
        }
    }
    struct bench_span s = {.wall_ns = now - begin, .cpu_ns = bench_cpu_ns()};
    bench_print(h->peer, "hog", BENCH_SLEEPERS, h->workers, s,
                "\"late_p50_us\":%.1f,\"late_p99_us\":%.1f,\"late_max_us\":%.1f,\"wakeups\":%llu,"
                "\"stuck_sleepers\":%d,\"starved\":%s,\"hogs\":%d,\"form\":\"%s\"",
                bench_percentile(&h->late, .5) / 1e3, bench_percentile(&h->late, .99) / 1e3,
                (double)h->late.max / 1e3, (unsigned long long)wakeups, stuck,
                stuck > BENCH_SLEEPERS / 2 ? "true" : "false", h->hogs, h->form);
    _exit(0);
}

/* Call it right before the hogs start. */
static inline void bench_hog_watch(struct bench_hog *h) {
    pthread_t thread;
    h->watching = true;
    if (pthread_create(&thread, NULL, bench_hog_report, h) != 0) {
        fputs("no thread for the report\n", stderr);
        _exit(1);
    }
    pthread_detach(thread);
}

/* ---- HTTP, as little as a bare server needs ------------------------------------------------------------------------ */

#define BENCH_HTTP_RESPONSE "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, World!"
#define BENCH_HTTP_RESPONSE_LEN (sizeof BENCH_HTTP_RESPONSE - 1)

/* How many complete request heads (without bodies, as of GET) `text` begins with; `*used` is how many bytes they take.
 * The first `seen` bytes hold no end of a head: they were looked at when less had arrived. */
static inline size_t bench_http_requests(const char *text, size_t len, size_t seen, size_t *used) {
    const char *begin = text, *from = text + (seen > 3 ? seen - 3 : 0), *end = text + len;
    size_t requests = 0;
    while ((from = memmem(from, (size_t)(end - from), "\r\n\r\n", 4)) != NULL) {
        from += 4;
        begin = from;
        requests++;
    }
    *used = (size_t)(begin - text);
    return requests;
}

/* ---- process ---------------------------------------------------------------------------------------------------- */

/* Thousands of connections need more descriptors than the usual soft limit. */
static inline void bench_raise_fd_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* No driver outlives this: SIGALRM ends it. */
static inline void bench_limit_seconds(unsigned seconds) { alarm(seconds); }

/* The environment variable, or a default where it is unset or empty. */
static inline const char *bench_env(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value && *value ? value : otherwise;
}
#endif
