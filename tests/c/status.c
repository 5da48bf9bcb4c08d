/* Status codes have names and texts, the version is that of the header, features say what is in force. */
#include "check.h"

int main(void) {
  static const struct {
    int64_t status;
    const char *name;
  } known[] = {
      {SWN_ESTALE_HANDLE, "SWN_ESTALE_HANDLE"}, {SWN_ENOTVTHREAD, "SWN_ENOTVTHREAD"},
      {SWN_ESTOPPED, "SWN_ESTOPPED"},           {SWN_EFORKED, "SWN_EFORKED"},
      {SWN_EVERSION, "SWN_EVERSION"},           {SWN_ENOSTACK, "SWN_ENOSTACK"},
      {-ETIMEDOUT, "ETIMEDOUT"},                {-EINVAL, "EINVAL"},
      {-EBADF, "EBADF"},                        {-ECANCELED, "ECANCELED"},
      {-EBUSY, "EBUSY"},                        {-EDEADLK, "EDEADLK"},
      {-ECONNREFUSED, "ECONNREFUSED"},          {-EPIPE, "EPIPE"},
  };
  for (size_t i = 0; i < COUNT(known); i++) {
    CHECK(strcmp(swn_error_name(known[i].status), known[i].name) == 0);
    CHECK(strlen(swn_strerror(known[i].status)) > 3);
    /* Static text: the same each time. */
    CHECK(swn_strerror(known[i].status) == swn_strerror(known[i].status));
  }
  static const int64_t unknown[] = {0, 1, 12345, -9999, -10999, -20000, -29999, INT64_MIN, INT64_MAX};
  for (size_t i = 0; i < COUNT(unknown); i++) {
    CHECK(swn_error_name(unknown[i]) != NULL);
    CHECK(swn_strerror(unknown[i]) != NULL);
  }
  for (int64_t status = -200; status <= 0; status++) {
    CHECK(swn_error_name(status)[0] != 0);
    CHECK(swn_strerror(status)[0] != 0);
  }

  CHECK_EQ(swn_version(), SWN_VERSION_MAJOR << 16 | SWN_VERSION_MINOR << 8 | SWN_VERSION_PATCH);

  swn_runtime_t *rt = start(2);
  swn_features_t features;
  CHECK_OK(swn_runtime_features(rt, &features, sizeof features));
  CHECK_EQ(features.size, sizeof features);
  CHECK_EQ(features.version, swn_version());
  CHECK_EQ(features.cores, 2);
  CHECK_EQ(features.driver, SWN_DRIVER_READINESS);
  CHECK(features.guard_mode >= SWN_GUARD_INSTALL && features.guard_mode <= SWN_GUARD_NONE);
  CHECK(features.affinity == SWN_AFFINITY_NONE || features.affinity == SWN_AFFINITY_PIN);
  finish(rt);

  swn_runtime_options_t options;
  CHECK_OK(swn_runtime_options_init(&options, sizeof options));
  options.affinity = SWN_AFFINITY_NONE;
  options.driver = SWN_DRIVER_READINESS;
  CHECK_OK(swn_runtime_start(&options, &rt));
  CHECK_OK(swn_runtime_features(rt, &features, sizeof features));
  CHECK_EQ(features.affinity, SWN_AFFINITY_NONE);
  CHECK(features.cores >= 1);
  finish(rt);
  return 0;
}
