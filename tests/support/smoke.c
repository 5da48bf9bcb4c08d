/* Compiled as every standard of C and C++: the header, one vthread, one wait. */
#include <swiftnet.h>

static void *body(void *arg) {
  int *value = (int *)arg;
  if (swn_sleep_for(1000) != SWN_OK) return NULL;
  *value += 1;
  return arg;
}

int main(void) {
  swn_runtime_options_t options;
  swn_runtime_t *rt = NULL;
  swn_vthread_t vt = 0;
  swn_sem_t sem = {{0, 0, 0, 0}};
  void *result = NULL;
  int value = 41;
  if (swn_runtime_options_init(&options, sizeof options) != SWN_OK) return 1;
  if (swn_runtime_start(&options, &rt) != SWN_OK) return 2;
  if (swn_spawn(rt, body, &value, NULL, &vt) != SWN_OK) return 3;
  if (swn_join(vt, &result, SWN_FOREVER) != SWN_OK || result != &value || value != 42) return 4;
  if (swn_sem_release(&sem, 1) != SWN_OK || swn_sem_acquire(&sem, 0) != SWN_OK) return 5;
  if (swn_runtime_stop(rt, swn_deadline_after(60000000000u)) != SWN_OK) return 6;
  if (swn_runtime_destroy(rt) != SWN_OK) return 7;
  return 0;
}
