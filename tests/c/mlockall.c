/* mlockall: guard pages by madvise are refused on locked memory; the library finds another way and says which. */
#include "check.h"
#include <sys/mman.h>

static void *body(void *arg) {
  volatile char page[8192];
  page[0] = 1;
  CHECK_OK(swn_sleep_for(MS));
  return page[0] == 1 ? arg : NULL;
}

int main(void) {
  if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0) {
    /* An unprivileged process with a small RLIMIT_MEMLOCK. */
    printf("left out: mlockall: %s\n", strerror(errno));
    return 0;
  }
  swn_runtime_options_t options;
  swn_runtime_t *rt = NULL;
  CHECK_OK(swn_runtime_options_init(&options, sizeof options));
  options.cores = 2;
  options.stack_bytes = 64 << 10;
  CHECK_OK(swn_runtime_start(&options, &rt));
  swn_vthread_t vts[200];
  for (int round = 0; round < 3; round++) {
    for (size_t i = 0; i < COUNT(vts); i++) vts[i] = spawn(rt, body, &options);
    for (size_t i = 0; i < COUNT(vts); i++) CHECK(join(vts[i]) == &options);
  }
  swn_features_t features;
  CHECK_OK(swn_runtime_features(rt, &features, sizeof features));
  CHECK(features.guard_mode >= SWN_GUARD_INSTALL && features.guard_mode <= SWN_GUARD_NONE);
  finish(rt);
  return 0;
}
