/* Handles that are zero, stale, foreign or invented give a code and never do harm. */
#include "check.h"

static void *body(void *arg) { return arg; }

static void *sem_wait_in_vthread(void *sem) {
  CHECK_OK(swn_sem_acquire((swn_sem_t *)sem, soon()));
  return NULL;
}

static void expect_no_vthread(swn_vthread_t vt) {
  swn_vthread_context_t context;
  CHECK_EQ(swn_join(vt, NULL, soon()), SWN_ESTALE_HANDLE);
  CHECK_EQ(swn_detach(vt), SWN_ESTALE_HANDLE);
  CHECK_EQ(swn_vthread_context(vt, &context, sizeof context), SWN_ESTALE_HANDLE);
}

static void no_text(void *arg, const char *text, size_t len) {
  (void)arg, (void)text, (void)len;
  CHECK(!"text of a runtime that is not there");
}

static int no_visit(void *arg, const swn_vthread_context_t *vt) {
  (void)arg, (void)vt;
  CHECK(!"a vthread of a runtime that is not there");
  return 0;
}

static void expect_no_runtime(swn_runtime_t *rt, int expected) {
  swn_vthread_t vt = 77;
  swn_stats_t stats;
  swn_features_t features;
  swn_http_server_t *server = NULL;
  CHECK_EQ(swn_spawn(rt, body, NULL, NULL, &vt), expected);
  CHECK_EQ(swn_spawn_batch(rt, body, NULL, 2, NULL, NULL), expected);
  if (rt != NULL) { /* NULL may have its own meaning to these */
    CHECK_EQ(swn_runtime_stop(rt, soon()), expected);
    CHECK_EQ(swn_runtime_destroy(rt), expected);
    CHECK_EQ(swn_stats_read(rt, &stats, sizeof stats), expected);
    CHECK_EQ(swn_stats_read_core(rt, 0, &stats, sizeof stats), expected);
    CHECK_EQ(swn_runtime_features(rt, &features, sizeof features), expected);
    CHECK_EQ(swn_stats_json(rt, no_text, NULL), expected);
    CHECK_EQ(swn_stats_prometheus(rt, no_text, NULL), expected);
    CHECK_EQ(swn_vthread_foreach(rt, no_visit, NULL), expected);
    CHECK_EQ(swn_http_server_create(rt, NULL, &server), expected);
    CHECK(server == NULL);
  }
}

int main(void) {
  swn_sem_t sem = {{0}};
  /* Before any runtime was there. */
  expect_no_vthread(0);
  expect_no_vthread(1);
  expect_no_vthread(UINT64_MAX);
  expect_no_runtime((swn_runtime_t *)&sem, SWN_ESTALE_HANDLE);
  expect_no_runtime(NULL, SWN_ENOTVTHREAD);

  swn_runtime_t *rt = start(2);
  swn_vthread_t alive = spawn(rt, sem_wait_in_vthread, &sem);
  swn_vthread_t ended = spawn(rt, body, NULL);
  join(ended);
  expect_no_vthread(ended);
  /* Every single bit of a live handle changed. */
  for (int bit = 0; bit < 64; bit++) expect_no_vthread(alive ^ (UINT64_C(1) << bit));
  /* The place of an ended vthread is used again: the old handle still does not reach the new one. */
  for (int i = 0; i < 1000; i++) {
    swn_vthread_t next = spawn(rt, body, NULL);
    CHECK(next != ended && next != alive);
    CHECK_EQ(swn_detach(ended), SWN_ESTALE_HANDLE);
    join(next);
  }
  static const uintptr_t invented[] = {1, 8, 64, 4096, 0xdeadbeef, UINTPTR_MAX, UINTPTR_MAX - 7};
  for (size_t i = 0; i < COUNT(invented); i++) expect_no_runtime((swn_runtime_t *)invented[i], SWN_ESTALE_HANDLE);
  expect_no_runtime((swn_runtime_t *)&sem, SWN_ESTALE_HANDLE);
  expect_no_runtime((swn_runtime_t *)((char *)rt + 1), SWN_ESTALE_HANDLE);

  CHECK_EQ(swn_http_server_stop((swn_http_server_t *)&sem, soon()), SWN_ESTALE_HANDLE);
  CHECK_EQ(swn_http_server_destroy((swn_http_server_t *)&sem), SWN_ESTALE_HANDLE);
  CHECK_EQ(swn_http_server_listen((swn_http_server_t *)&sem, NULL, 0), SWN_ESTALE_HANDLE);

  CHECK_OK(swn_sem_release(&sem, 1));
  join(alive);
  finish(rt);
  expect_no_vthread(alive);
  expect_no_runtime(rt, SWN_ESTALE_HANDLE);
  /* A later runtime does not answer to the old handle. */
  swn_runtime_t *later = start(1);
  if (later != rt) expect_no_runtime(rt, SWN_ESTALE_HANDLE);
  expect_no_vthread(alive);
  finish(later);
  return 0;
}
