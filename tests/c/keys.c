/* Vthread-local storage: values of their own across waits, destructors at the end, deleted keys, the limit. */
#include "check.h"

static swn_key_t key, quiet, shy;
static int destroyed;

static void destroy(void *value) {
  CHECK(value != NULL);
  CHECK(swn_self() != 0);
  __atomic_add_fetch(&destroyed, 1, __ATOMIC_SEQ_CST);
  free(value);
}

static void *keep_own_value(void *arg) {
  int *value = (int *)malloc(sizeof *value);
  CHECK(value != NULL);
  *value = (int)(uintptr_t)arg;
  CHECK(swn_key_get(key) == NULL);
  CHECK_OK(swn_key_set(key, value));
  CHECK_OK(swn_key_set(quiet, &key));
  for (int i = 0; i < 20; i++) {
    CHECK_OK(i % 5 ? swn_yield() : swn_sleep_for(MS / 10));
    CHECK(swn_key_get(key) == value);
    CHECK_EQ(*value, (uintptr_t)arg);
    CHECK(swn_key_get(quiet) == &key);
  }
  /* No destructor for a value taken back. */
  CHECK_OK(swn_key_set(shy, value));
  CHECK_OK(swn_key_set(shy, NULL));
  return NULL;
}

static void *limits(void *arg) {
  /* At most 128 in the process; the three of main are among them. */
  swn_key_t keys[129];
  int made = 0, status = 0;
  while (made < 129 && (status = swn_key_create(NULL, &keys[made])) == 0) made++;
  CHECK(status == -EAGAIN || status == -ENOMEM || status == -ENOSPC);
  CHECK_EQ(made, 125);
  CHECK_OK(swn_key_set(keys[0], arg));
  for (int i = 0; i < made; i++) CHECK_OK(swn_key_delete(keys[i]));
  CHECK_EQ(swn_key_delete(keys[0]), -EINVAL);
  CHECK_EQ(swn_key_set(keys[0], arg), -EINVAL);
  CHECK(swn_key_get(keys[0]) == NULL);
  /* A new key on an old place shows nothing of the old one. */
  for (int i = 0; i < made; i++) {
    CHECK_OK(swn_key_create(NULL, &keys[i]));
    CHECK(swn_key_get(keys[i]) == NULL);
  }
  for (int i = 0; i < made; i++) CHECK_OK(swn_key_delete(keys[i]));
  CHECK_EQ(swn_key_set(UINT32_MAX, arg), -EINVAL);
  CHECK(swn_key_get(UINT32_MAX) == NULL);
  return NULL;
}

int main(void) {
  CHECK_OK(swn_key_create(destroy, &key));
  CHECK_OK(swn_key_create(NULL, &quiet));
  CHECK_OK(swn_key_create(destroy, &shy));
  CHECK_EQ(swn_key_set(key, &key), SWN_ENOTVTHREAD);
  CHECK(swn_key_get(key) == NULL);

  swn_runtime_t *rt = start(2);
  uint32_t n = scaled(1000);
  swn_vthread_t *vts = (swn_vthread_t *)calloc(n, sizeof *vts);
  for (uint32_t i = 0; i < n; i++) vts[i] = spawn(rt, keep_own_value, (void *)(uintptr_t)i);
  for (uint32_t i = 0; i < n; i++) join(vts[i]);
  CHECK_EQ(__atomic_load_n(&destroyed, __ATOMIC_SEQ_CST), n);
  run_in(rt, limits, &key);
  free(vts);
  finish(rt);
  CHECK_OK(swn_key_delete(key));
  CHECK_OK(swn_key_delete(quiet));
  CHECK_OK(swn_key_delete(shy));
  return 0;
}
