/* A good guest: loading changes nothing of the process, and (dlopen, start, work, stop, destroy, dlclose) again and
 * again leaves no thread, file or mapping.
 * SWN_TEST: nolink
 * SWN_TEST: skip asan the sanitizer keeps libraries and their mappings
 * SWN_TEST: skip valgrind it maps for itself while the program runs */
#define CHECK_WITHOUT_LIBRARY
#include "check.h"
#include <dlfcn.h>
#include <signal.h>
#include <sys/resource.h>
#include <swiftnet.h>

#define LOAD(name) __typeof__(name) *p_##name = (__typeof__(name) *)dlsym(library, #name); CHECK(p_##name != NULL)

static int (*sleep_for)(uint64_t);
static int64_t (*read_fd)(int, void *, size_t, uint64_t);

static void *body(void *arg) {
  char byte;
  CHECK_OK(sleep_for(100000));
  CHECK_EQ(read_fd(*(int *)arg, &byte, 1, SWN_FOREVER), 1);
  return arg;
}

static int mappings(void) {
  int lines = 0, c;
  FILE *file = fopen("/proc/self/maps", "r");
  CHECK(file != NULL);
  while ((c = getc(file)) != EOF) lines += c == '\n';
  fclose(file);
  return lines;
}

static void once(void) {
  void *library = dlopen(getenv("SWN_LIBRARY"), RTLD_NOW | RTLD_LOCAL);
  if (!library) fprintf(stderr, "%s\n", dlerror());
  CHECK(library != NULL);
  LOAD(swn_runtime_options_init);
  LOAD(swn_runtime_start);
  LOAD(swn_runtime_stop);
  LOAD(swn_runtime_destroy);
  LOAD(swn_deadline_after);
  LOAD(swn_spawn);
  LOAD(swn_join);
  LOAD(swn_sleep_for);
  LOAD(swn_read);
  LOAD(swn_write);
  LOAD(swn_pipe);
  LOAD(swn_close);
  sleep_for = p_swn_sleep_for;
  read_fd = p_swn_read;
  swn_runtime_options_t options;
  swn_runtime_t *rt = NULL;
  swn_vthread_t vts[20];
  int fds[2];
  CHECK_OK(p_swn_runtime_options_init(&options, sizeof options));
  options.cores = 2;
  CHECK_OK(p_swn_runtime_start(&options, &rt));
  CHECK_OK(p_swn_pipe(fds));
  for (size_t i = 0; i < COUNT(vts); i++) CHECK_OK(p_swn_spawn(rt, body, &fds[0], NULL, &vts[i]));
  for (size_t i = 0; i < COUNT(vts); i++) CHECK_EQ(p_swn_write(fds[1], "x", 1, SWN_FOREVER), 1);
  for (size_t i = 0; i < COUNT(vts); i++) CHECK_OK(p_swn_join(vts[i], NULL, SWN_FOREVER));
  CHECK_OK(p_swn_close(fds[0]));
  CHECK_OK(p_swn_close(fds[1]));
  CHECK_OK(p_swn_runtime_stop(rt, p_swn_deadline_after(60 * SECOND)));
  CHECK_OK(p_swn_runtime_destroy(rt));
  CHECK_OK(dlclose(library));
}

static void loading_changes_nothing(void) {
  struct sigaction before[65], after;
  sigset_t mask_before, mask_after;
  struct rlimit limits[RLIM_NLIMITS], limit;
  int threads = count_entries("/proc/self/task"), files = count_entries("/proc/self/fd");
  for (int s = 1; s < 65; s++) sigaction(s, NULL, &before[s]);
  for (int i = 0; i < RLIM_NLIMITS; i++) CHECK_OK(getrlimit(i, &limits[i]));
  sigprocmask(SIG_BLOCK, NULL, &mask_before);
  void *library = dlopen(getenv("SWN_LIBRARY"), RTLD_NOW | RTLD_LOCAL);
  CHECK(library != NULL);
  CHECK_EQ(count_entries("/proc/self/task"), threads);
  CHECK_EQ(count_entries("/proc/self/fd"), files);
  CHECK_OK(dlclose(library));
  once();
  for (int s = 1; s < 65; s++)
    if (sigaction(s, NULL, &after) == 0) CHECK(after.sa_handler == before[s].sa_handler);
  for (int i = 0; i < RLIM_NLIMITS; i++) {
    CHECK_OK(getrlimit(i, &limit));
    CHECK(limit.rlim_cur == limits[i].rlim_cur && limit.rlim_max == limits[i].rlim_max);
  }
  sigprocmask(SIG_BLOCK, NULL, &mask_after);
  CHECK(memcmp(&mask_before, &mask_after, sizeof mask_before) == 0);
}

static void await_threads(int expected) {
  /* A joined thread may be listed until the kernel has buried it. */
  for (int i = 0; i < 60000 && count_entries("/proc/self/task") > expected; i++) usleep(1000);
  CHECK_EQ(count_entries("/proc/self/task"), expected);
}

int main(void) {
  int threads = count_entries("/proc/self/task"), files = count_entries("/proc/self/fd");
  loading_changes_nothing();
  for (int i = 0; i < 5; i++) once(); /* libc takes what it keeps: thread stacks, malloc arenas */
  await_threads(threads);
  int maps = mappings();
  for (uint32_t i = 0; i < scaled(100); i++) {
    once();
    CHECK_EQ(count_entries("/proc/self/fd"), files);
  }
  await_threads(threads);
  if (mappings() > maps) {
    FILE *file = fopen("/proc/self/maps", "r");
    char line[512];
    while (fgets(line, sizeof line, file)) fputs(line, stderr);
  }
  /* glibc may give a malloc arena to one more of its threads; a leak would be at least one a round. */
  CHECK(mappings() <= maps + 4);
  return 0;
}
