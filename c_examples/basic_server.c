/* An HTTP server that one can load and watch.
 *
 *   /            a page
 *   /user/{id}   JSON, after a wait that stands for a database call (DB_US microseconds, default 100)
 *   /stress      spawns 1,000 vthreads that compute, sleep and yield, joins them, and reports in JSON
 *   /stats       what the runtime is doing, in JSON; /metrics: the same for Prometheus
 *
 * ADDR (127.0.0.1) and PORT (8080; 0: any free one) say where; SIGINT or SIGTERM ends it cleanly. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <swiftnet.h>

enum { STRESS_VTHREADS = 1000 };

static swn_runtime_t *rt;
static uint64_t db_ns = 100 * 1000;

static void respond(swn_http_exchange_t *x, const char *type, const char *text, int len) {
  swn_http_respond(x, 200, type, text, (size_t)len);
}

static void page(void *arg, swn_http_exchange_t *x) {
  static const char text[] =
      "<!doctype html><meta charset=utf-8><title>swiftnet</title><h1>swiftnet</h1>"
      "<p>Each request runs in a virtual thread of its own."
      "<ul><li><a href=/user/123>/user/123</a> waits as for a database<li><a href=/stress>/stress</a> spawns 1,000 "
      "vthreads<li><a href=/stats>/stats</a> live<li><a href=/metrics>/metrics</a> for Prometheus</ul>\n";
  (void)arg;
  respond(x, "text/html; charset=utf-8", text, (int)sizeof text - 1);
}

/* Letters, digits and a few signs, so that the text can stand in JSON as it is. */
static int is_plain(swn_str_t text) {
  for (size_t i = 0; i < text.len; i++)
    if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.", text.ptr[i]) || !text.ptr[i])
      return 0;
  return text.len > 0 && text.len <= 64;
}

static void user(void *arg, swn_http_exchange_t *x) {
  swn_str_t id;
  char text[256];
  (void)arg;
  if (swn_http_param(x, "id", &id) != 0 || !is_plain(id)) {
    static const char error[] = "{\"error\":\"the id may have letters, digits, - _ and .\"}\n";
    swn_http_respond(x, 400, "application/json", error, sizeof error - 1);
    return;
  }
  uint64_t before = swn_now();
  swn_sleep_for(db_ns); /* parks this vthread; the core serves other requests meanwhile */
  int len = snprintf(text, sizeof text, "{\"id\":\"%.*s\",\"name\":\"User %.*s\",\"waited_us\":%" PRIu64 "}\n",
                     (int)id.len, id.ptr, (int)id.len, id.ptr, (swn_now() - before) / 1000);
  respond(x, "application/json", text, len);
}

static void *stress_one(void *arg) {
  uintptr_t seed = (uintptr_t)arg;
  uint32_t hash = (uint32_t)seed + 1;
  for (int round = 0; round < 5; round++) {
    for (int i = 0; i < 1000; i++) hash = (hash ^ (hash >> 15)) * 2246822519u + (uint32_t)i;
    if (round % 2) swn_sleep_for(10000 + seed % 90 * 1000);
    else swn_yield();
  }
  return (void *)(uintptr_t)hash;
}

static void stress(void *arg, swn_http_exchange_t *x) {
  /* 16 KB of arrays from the arena of this vthread rather than from its stack; free again at its end. */
  swn_vthread_t *vts = (swn_vthread_t *)swn_arena_alloc(STRESS_VTHREADS * sizeof *vts, sizeof *vts);
  void **args = (void **)swn_arena_alloc(STRESS_VTHREADS * sizeof *args, sizeof *args);
  char text[256];
  (void)arg;
  uint64_t before = swn_now();
  int64_t spawned = 0, ended = 0;
  uint32_t checksum = 0;
  if (vts && args) {
    for (uintptr_t i = 0; i < STRESS_VTHREADS; i++) args[i] = (void *)i;
    spawned = swn_spawn_batch(rt, stress_one, args, STRESS_VTHREADS, NULL, vts);
  }
  for (int64_t i = 0; i < spawned; i++) {
    void *result = NULL;
    ended += swn_join(vts[i], &result, SWN_FOREVER) == 0;
    checksum ^= (uint32_t)(uintptr_t)result;
  }
  int len = snprintf(text, sizeof text,
                     "{\"spawned\":%" PRId64 ",\"completed\":%" PRId64 ",\"checksum\":%" PRIu32 ",\"us\":%" PRIu64 "}\n",
                     spawned, ended, checksum, (swn_now() - before) / 1000);
  respond(x, "application/json", text, len);
}

static void write_chunk(void *x, const char *text, size_t len) {
  swn_http_chunked_write((swn_http_exchange_t *)x, text, len);
}

static void stats(void *arg, swn_http_exchange_t *x) {
  (void)arg;
  if (swn_http_chunked_begin(x, 200, "application/json") != 0) return;
  swn_stats_json(rt, write_chunk, x);
  swn_http_chunked_end(x);
}

static void metrics(void *arg, swn_http_exchange_t *x) {
  (void)arg;
  if (swn_http_chunked_begin(x, 200, "text/plain; version=0.0.4") != 0) return;
  swn_stats_prometheus(rt, write_chunk, x);
  swn_http_chunked_end(x);
}

static int fail(const char *what, int64_t status) {
  fprintf(stderr, "basic_server: %s: %s\n", what, swn_strerror(status));
  return 1;
}

int main(void) {
  static const struct {
    const char *pattern;
    swn_http_handler_fn fn;
  } routes[] = {{"/", page}, {"/user/{id}", user}, {"/stress", stress}, {"/stats", stats}, {"/metrics", metrics}};
  const char *address = getenv("ADDR"), *port_text = getenv("PORT"), *db_text = getenv("DB_US");
  swn_http_server_t *server;
  sigset_t ends;
  int status, signal_number;

  /* Blocked before the runtime makes its threads, so that the signals wait for sigwait below. */
  sigemptyset(&ends);
  sigaddset(&ends, SIGINT);
  sigaddset(&ends, SIGTERM);
  sigprocmask(SIG_BLOCK, &ends, NULL);

  if (!address || !*address) address = "127.0.0.1";
  if (db_text && *db_text) db_ns = strtoull(db_text, NULL, 10) * 1000;
  status = swn_runtime_start(NULL, &rt);
  if (status != 0) return fail("start", status);
  status = swn_http_server_create(rt, NULL, &server);
  if (status != 0) return fail("create", status);
  for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
    status = swn_http_route(server, "GET", routes[i].pattern, routes[i].fn, NULL);
    if (status != 0) return fail(routes[i].pattern, status);
  }
  int port = swn_http_server_listen(server, address, (uint16_t)(port_text && *port_text ? atoi(port_text) : 8080));
  if (port < 0) return fail(address, port);
  printf("http://%s:%d/\n", address, port);
  fflush(stdout);

  sigwait(&ends, &signal_number);
  swn_http_server_stop(server, swn_deadline_after(UINT64_C(5000000000)));
  swn_http_server_destroy(server);
  status = swn_runtime_stop(rt, swn_deadline_after(UINT64_C(5000000000)));
  if (status != 0) return fail("stop", status);
  return swn_runtime_destroy(rt);
}
