/* The handle of a destroyed runtime is refused by every call, also when another runtime has taken its place, and also in
 * a vthread of that one. */
#include "check.h"

static swn_runtime_t *old;
static swn_sem_t sem;

static void *body(void *arg) { return arg; }

static void completed(void *arg, int status) {
  (void)arg;
  (void)status;
  CHECK(0);
}

static int visit(void *arg, const swn_vthread_context_t *vt) {
  (void)arg;
  (void)vt;
  return 0;
}

static void text(void *arg, const char *bytes, size_t len) {
  (void)arg;
  (void)bytes;
  (void)len;
}

static void *all_refuse(void *arg) {
  swn_vthread_t vt = 0;
  swn_features_t features;
  swn_stats_t stats;
  swn_spawn_options_t options;
  swn_completion_t op;
  swn_http_server_t *server = NULL;
  CHECK_OK(swn_spawn_options_init(&options, sizeof options));
  CHECK_EQ(swn_spawn(old, body, NULL, NULL, NULL), SWN_ESTALE_HANDLE);
  CHECK_EQ(swn_spawn(old, body, NULL, NULL, &vt), SWN_ESTALE_HANDLE);
  CHECK_EQ(swn_spawn(old, body, NULL, &options, &vt), SWN_ESTALE_HANDLE);
  CHECK_EQ(swn_spawn_batch(old, body, NULL, 3, NULL, NULL), SWN_ESTALE_HANDLE);
  CHECK_EQ(vt, 0);
  CHECK_EQ(swn_sem_acquire_then(&sem, old, &op, completed, NULL), SWN_ESTALE_HANDLE);
  CHECK_EQ(swn_sem_permits(&sem), 1);
  CHECK_EQ(swn_runtime_features(old, &features, sizeof features), SWN_ESTALE_HANDLE);
  CHECK_EQ(swn_stats_read(old, &stats, sizeof stats), SWN_ESTALE_HANDLE);
  CHECK_EQ(swn_stats_read_core(old, 0, &stats, sizeof stats), SWN_ESTALE_HANDLE);
  CHECK_EQ(swn_stats_json(old, text, NULL), SWN_ESTALE_HANDLE);
  CHECK_EQ(swn_stats_prometheus(old, text, NULL), SWN_ESTALE_HANDLE);
  CHECK_EQ(swn_vthread_foreach(old, visit, NULL), SWN_ESTALE_HANDLE);
  CHECK_EQ(swn_http_server_create(old, NULL, &server), SWN_ESTALE_HANDLE);
  CHECK_EQ(swn_runtime_stop(old, soon()), SWN_ESTALE_HANDLE);
  CHECK_EQ(swn_runtime_destroy(old), SWN_ESTALE_HANDLE);
  return arg;
}

int main(void) {
  CHECK_OK(swn_sem_init(&sem, 1));
  for (uint32_t i = 0; i < 3; i++) {
    old = start(1);
    finish(old);
    all_refuse(NULL);
    swn_runtime_t *rt = start(2); /* in the place that was left */
    all_refuse(NULL);
    run_in(rt, all_refuse, NULL);
    finish(rt);
  }
  return 0;
}
