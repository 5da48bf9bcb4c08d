/* What a host can get wrong at each call: NULL, wrong sizes, absurd options, bad flags, bad fds. */
#include "check.h"
#include <limits.h>

#define INVALID(call)                                      \
  do {                                                     \
    long long invalid_status = (long long)(call);          \
    if (invalid_status != -EFAULT) CHECK_EQ(call, -EINVAL); \
  } while (0)

static void *body(void *arg) { return arg; }
static void ignore(void *arg, int status) { (void)arg, (void)status; }

static int try_start(const swn_runtime_options_t *options) {
  swn_runtime_t *rt = NULL;
  int status = swn_runtime_start(options, &rt);
  CHECK((status == 0) == (rt != NULL));
  if (status == 0) finish(rt);
  return status;
}

static void runtime_options(void) {
  swn_runtime_options_t good, bad;
  CHECK_OK(swn_runtime_options_init(&good, sizeof good));
  CHECK_EQ(good.size, sizeof good);
  INVALID(swn_runtime_options_init(NULL, sizeof good));
  CHECK_EQ(swn_runtime_options_init(&bad, 0), SWN_EVERSION);
  CHECK_EQ(swn_runtime_options_init(&bad, 3), SWN_EVERSION);
  INVALID(swn_runtime_start(&good, NULL));
  CHECK_OK(try_start(&good));
  CHECK_OK(try_start(NULL));

#define REFUSED(field, value, status)        \
  do {                                       \
    bad = good;                              \
    bad.field = (value);                     \
    CHECK_EQ(try_start(&bad), status);       \
  } while (0)
  REFUSED(affinity, 99, -EINVAL);
  REFUSED(driver, 99, -EINVAL);
  REFUSED(cores, UINT32_MAX, -ERANGE);
  REFUSED(slice_ns, 1, -ERANGE);
  REFUSED(slice_ns, 99999, -ERANGE);
  REFUSED(slice_ns, 10 * SECOND + 1, -ERANGE);
  REFUSED(slice_ns, UINT64_MAX, -ERANGE);
  REFUSED(stack_bytes, SIZE_MAX, -ERANGE);
  REFUSED(stack_bytes, (1 << 20) + 1, -ERANGE);
  REFUSED(arena_bytes, 1, -ERANGE);
  REFUSED(arena_bytes, SIZE_MAX, -ERANGE);
  REFUSED(offload_threads, 1025, -ERANGE);
  REFUSED(offload_threads, UINT32_MAX, -ERANGE);
#undef REFUSED
  bad = good;
  bad.size = 0;
  CHECK_EQ(try_start(&bad), SWN_EVERSION);
  bad.size = 4;
  CHECK_EQ(try_start(&bad), SWN_EVERSION);
  bad.size = SIZE_MAX;
  CHECK_EQ(try_start(&bad), SWN_EVERSION);

  /* A newer host: a longer struct is fine as long as what this library does not know is zero. */
  struct {
    swn_runtime_options_t known;
    uint64_t tail[4];
  } newer;
  memset(&newer, 0xee, sizeof newer);
  CHECK_OK(swn_runtime_options_init(&newer.known, sizeof newer));
  CHECK_EQ(newer.known.size, sizeof newer);
  CHECK_EQ(newer.tail[3], 0);
  CHECK_OK(try_start(&newer.known));
  newer.tail[2] = 1;
  CHECK_EQ(try_start(&newer.known), SWN_EVERSION);
}

static void spawn_options(swn_runtime_t *rt) {
  swn_spawn_options_t good, bad;
  swn_vthread_t vt = 0;
  CHECK_OK(swn_spawn_options_init(&good, sizeof good));
  INVALID(swn_spawn_options_init(NULL, sizeof good));
  CHECK_EQ(swn_spawn_options_init(&bad, 1), SWN_EVERSION);
  INVALID(swn_spawn(rt, NULL, NULL, NULL, &vt));
  INVALID(swn_spawn_batch(rt, NULL, NULL, 3, NULL, NULL));
#define REFUSED(field, value, status)                            \
  do {                                                           \
    bad = good;                                                  \
    bad.field = (value);                                         \
    CHECK_EQ(swn_spawn(rt, body, NULL, &bad, &vt), status);      \
    CHECK_EQ(vt, 0);                                             \
  } while (0)
  REFUSED(flags, 1u << 31, -EINVAL);
  REFUSED(stack_bytes, SIZE_MAX, -ERANGE);
  REFUSED(stack_bytes, (1 << 20) + 1, -ERANGE);
  bad = good;
  bad.flags = SWN_SPAWN_FIXED_CORE;
  bad.core = 2;
  CHECK_EQ(swn_spawn(rt, body, NULL, &bad, &vt), -ERANGE);
  bad.core = UINT32_MAX;
  CHECK_EQ(swn_spawn(rt, body, NULL, &bad, &vt), -ERANGE);
#undef REFUSED
  bad = good;
  bad.size = 2;
  CHECK_EQ(swn_spawn(rt, body, NULL, &bad, &vt), SWN_EVERSION);
}

static void fds_and_buffers(void) {
  char byte = 0;
  static const int fds[] = {-1, INT_MIN, INT_MAX, 1 << 20};
  for (size_t i = 0; i < COUNT(fds); i++) {
    int fd = fds[i];
    CHECK_EQ(swn_read(fd, &byte, 1, soon()), -EBADF);
    CHECK_EQ(swn_write(fd, &byte, 1, soon()), -EBADF);
    CHECK_EQ(swn_write_all(fd, &byte, 1, soon()), -EBADF);
    CHECK_EQ(swn_recv(fd, &byte, 1, 0, soon()), -EBADF);
    CHECK_EQ(swn_send(fd, &byte, 1, 0, soon()), -EBADF);
    CHECK_EQ(swn_accept(fd, NULL, NULL, soon()), -EBADF);
    CHECK_EQ(swn_poll(fd, SWN_POLLIN, soon()), -EBADF);
    CHECK_EQ(swn_close(fd), -EBADF);
    CHECK_EQ(swn_pread(fd, &byte, 1, 0, soon()), -EBADF);
    CHECK_EQ(swn_fsync(fd, soon()), -EBADF);
    CHECK_EQ(swn_file_close(fd, soon()), -EBADF);
  }
  int pipes[2];
  INVALID(swn_pipe(NULL));
  CHECK_OK(swn_pipe(pipes));
  INVALID(swn_read(pipes[0], NULL, 1, soon()));
  INVALID(swn_write(pipes[1], NULL, 1, soon()));
  INVALID(swn_poll(pipes[0], 1 << 20, soon()));
  CHECK_EQ(swn_write(pipes[1], &byte, 0, soon()), 0);
  CHECK_EQ(swn_recv(pipes[0], &byte, 1, 0, soon()), -ENOTSOCK);
  CHECK_OK(swn_close(pipes[0]));
  CHECK_EQ(swn_close(pipes[0]), -EBADF);
  CHECK_OK(swn_close(pipes[1]));
  INVALID(swn_connect(0, NULL, 16, soon()));
  INVALID(swn_tcp_listen("not an address", 0, 16, 0));
  INVALID(swn_tcp_listen("127.0.0.1", 0, 16, 1u << 30));
  INVALID(swn_tcp_connect(NULL, 80, soon()));
  INVALID(swn_unix_listen(NULL, 16));
  INVALID(swn_unix_connect(NULL, soon()));
  char path[400];
  memset(path, 'p', sizeof path - 1);
  path[sizeof path - 1] = 0;
  int status = swn_unix_listen(path, 16);
  CHECK(status == -ENAMETOOLONG || status == -EINVAL);
  INVALID(swn_open(NULL, 0, 0, soon()));
  INVALID(swn_getaddrinfo("localhost", NULL, NULL, NULL, soon()));
  INVALID(swn_offload(NULL, NULL, NULL, soon()));
  CHECK_EQ(swn_signal_wait(0, 0), -EINVAL);
}

static void out_structs(swn_runtime_t *rt) {
  swn_stats_t stats;
  swn_features_t features;
  INVALID(swn_stats_read(rt, NULL, sizeof stats));
  CHECK_EQ(swn_stats_read(rt, &stats, 2), SWN_EVERSION);
  CHECK_EQ(swn_stats_read_core(rt, 99, &stats, sizeof stats), -ERANGE);
  INVALID(swn_runtime_features(rt, NULL, sizeof features));
  CHECK_EQ(swn_runtime_features(rt, &features, 0), SWN_EVERSION);
  INVALID(swn_stats_json(rt, NULL, NULL));
  INVALID(swn_stats_prometheus(rt, NULL, NULL));
  INVALID(swn_vthread_foreach(rt, NULL, NULL));

  /* Shorter than any version of the struct was: nothing is written. */
  memset(&stats, 0xee, sizeof stats);
  CHECK_EQ(swn_stats_read(rt, &stats, sizeof stats - 8), SWN_EVERSION);
  CHECK_EQ(stats.spawned, UINT64_C(0xeeeeeeeeeeeeeeee));
  /* A newer host gives a larger one: what is not known is zero. */
  struct {
    swn_stats_t known;
    uint64_t tail[4];
  } newer;
  memset(&newer, 0xee, sizeof newer);
  CHECK_OK(swn_stats_read(rt, &newer.known, sizeof newer));
  CHECK_EQ(newer.tail[3], 0);
  CHECK_EQ(newer.known.cores, 2);
}

static void null_objects(swn_runtime_t *rt) {
  swn_sem_t sem = {{0}};
  swn_completion_t op;
  INVALID(swn_sem_init(NULL, 0));
  INVALID(swn_sem_acquire(NULL, 0));
  INVALID(swn_sem_try_acquire(NULL));
  INVALID(swn_sem_release(NULL, 1));
  INVALID(swn_sem_permits(NULL));
  INVALID(swn_sem_acquire_then(NULL, rt, &op, ignore, NULL));
  INVALID(swn_sem_acquire_then(&sem, rt, NULL, ignore, NULL));
  INVALID(swn_sem_acquire_then(&sem, rt, &op, NULL, NULL));
  CHECK_EQ(swn_sem_acquire_then(&sem, (swn_runtime_t *)&op, &op, ignore, NULL), SWN_ESTALE_HANDLE);
  INVALID(swn_sem_cancel(NULL, &op));
  INVALID(swn_sem_cancel(&sem, NULL));
  CHECK_EQ(swn_sem_permits(&sem), 0);
  INVALID(swn_key_create(NULL, NULL));
  CHECK_EQ(swn_key_delete(UINT32_MAX), -EINVAL);

  swn_http_server_t *server = NULL;
  swn_http_options_t options;
  INVALID(swn_http_server_create(rt, NULL, NULL));
  CHECK_OK(swn_http_options_init(&options, sizeof options));
  options.size = 1;
  CHECK_EQ(swn_http_server_create(rt, &options, &server), SWN_EVERSION);
  CHECK(server == NULL);
}

int main(void) {
  runtime_options();
  swn_runtime_t *rt = start(2);
  spawn_options(rt);
  fds_and_buffers();
  out_structs(rt);
  null_objects(rt);
  /* And all of it did no damage. */
  int value;
  CHECK(run_in(rt, body, &value) == &value);
  finish(rt);
  return 0;
}
