/* What every test program shares: checks that name file and line and end the process, generous limits, sizes that
 * SWN_TEST_SCALE shrinks. */
#ifndef SWN_TEST_CHECK_H
#define SWN_TEST_CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef CHECK_WITHOUT_LIBRARY
#include <swiftnet.h>
#endif

/* _exit: a failing vthread must not run the host's atexit functions on its stack. */
#define CHECK(condition)                                                                  \
  do {                                                                                    \
    if (!(condition)) {                                                                   \
      fprintf(stderr, "%s:%d: %s: not so: %s\n", __FILE__, __LINE__, __func__, #condition); \
      _exit(1);                                                                           \
    }                                                                                     \
  } while (0)

#define CHECK_EQ(left, right)                                                              \
  do {                                                                                     \
    long long check_l = (long long)(left), check_r = (long long)(right);                   \
    if (check_l != check_r) {                                                              \
      fprintf(stderr, "%s:%d: %s: %s is %lld%s, not %s = %lld%s\n", __FILE__, __LINE__,    \
              __func__, #left, check_l, check_name(check_l), #right, check_r,              \
              check_name(check_r));                                                        \
      _exit(1);                                                                            \
    }                                                                                      \
  } while (0)

#define CHECK_OK(call) CHECK_EQ(call, 0)

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define MS UINT64_C(1000000)
#define SECOND UINT64_C(1000000000)

/* " (ETIMEDOUT)" for a status, "" for other numbers. */
static inline const char *check_name(long long value) {
#ifndef CHECK_WITHOUT_LIBRARY
  static char names[8][48];
  static unsigned next;
  if (value < 0 && value > -30000) {
    char *name = names[next++ % 8];
    snprintf(name, sizeof names[0], " (%s)", swn_error_name(value));
    return name;
  }
#endif
  (void)value;
  return "";
}

/* `full` at 100 per cent of SWN_TEST_SCALE, at least 1. */
static inline uint32_t scaled(uint32_t full) {
  const char *text = getenv("SWN_TEST_SCALE");
  uint64_t per_cent = text && atoi(text) > 0 ? (uint64_t)atoi(text) : 100;
  uint64_t size = full * per_cent / 100;
  return size > 0 ? (uint32_t)size : 1;
}

static inline int in_mode(const char *mode) {
  const char *text = getenv("SWN_TEST_MODE");
  return text && strcmp(text, mode) == 0;
}

/* Entries of a directory: threads of /proc/self/task, files of /proc/self/fd. */
#include <dirent.h>
static inline int count_entries(const char *path) {
  DIR *dir = opendir(path);
  CHECK(dir != NULL);
  int entries = 0;
  for (struct dirent *entry; (entry = readdir(dir)) != NULL;) entries += entry->d_name[0] != '.';
  closedir(dir);
  return entries;
}

#ifndef CHECK_WITHOUT_LIBRARY

/* The limit of everything that must happen: far more than it can take. */
static inline uint64_t soon(void) { return swn_deadline_after(60 * SECOND); }

static inline swn_runtime_t *start(uint32_t cores) {
  swn_runtime_options_t options;
  swn_runtime_t *rt = NULL;
  CHECK_OK(swn_runtime_options_init(&options, sizeof options));
  options.cores = cores;
  CHECK_OK(swn_runtime_start(&options, &rt));
  CHECK(rt != NULL);
  return rt;
}

static inline void finish(swn_runtime_t *rt) {
  CHECK_OK(swn_runtime_stop(rt, soon()));
  CHECK_OK(swn_runtime_destroy(rt));
}

static inline swn_vthread_t spawn(swn_runtime_t *rt, swn_vthread_fn fn, void *arg) {
  swn_vthread_t vt = 0;
  CHECK_OK(swn_spawn(rt, fn, arg, NULL, &vt));
  CHECK(vt != 0);
  return vt;
}

static inline void *join(swn_vthread_t vt) {
  void *result = NULL;
  CHECK_OK(swn_join(vt, &result, soon()));
  return result;
}

/* Runs fn(arg) in a vthread and waits for its end. */
static inline void *run_in(swn_runtime_t *rt, swn_vthread_fn fn, void *arg) { return join(spawn(rt, fn, arg)); }

/* Waits, by sleeping, until the condition holds; fails after a minute. From any thread. */
#define AWAIT(condition)                                                                             \
  do {                                                                                               \
    uint64_t await_end = soon();                                                                     \
    while (!(condition)) {                                                                           \
      if (swn_now() > await_end) {                                                                   \
        fprintf(stderr, "%s:%d: %s: never came: %s\n", __FILE__, __LINE__, __func__, #condition);    \
        _exit(1);                                                                                    \
      }                                                                                              \
      swn_sleep_for(MS / 5);                                                                         \
    }                                                                                                \
  } while (0)

#endif
#endif
