/* The smallest program: start a runtime, run one function as a virtual thread, wait for it, stop. */
#include <stdio.h>
#include <swiftnet.h>

static void *hello(void *arg) {
  swn_sleep_for(1000000); /* 1 ms: parks this vthread; its core would go on with others */
  printf("hello, %s\n", (const char *)arg);
  return NULL;
}

int main(void) {
  swn_runtime_t *rt;
  swn_vthread_t vt;
  if (swn_runtime_start(NULL, &rt) != 0) return 1;
  if (swn_spawn(rt, hello, (void *)"world", NULL, &vt) != 0) return 1;
  swn_join(vt, NULL, SWN_FOREVER);
  swn_runtime_stop(rt, SWN_FOREVER);
  return swn_runtime_destroy(rt);
}
