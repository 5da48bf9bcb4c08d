/* A vthread that has lost its core uses everything that the library offers, and ends; its timers fire although all cores
 * sleep.
 *
 * SWN_TEST: skip valgrind one thread runs at a time there, so cores are not certain to be handed over */
#include "http_client.h"
#include "preempt.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>

static swn_runtime_t *rt;
static uint32_t cores;
static swn_sem_t empty, full;
static swn_key_t key;
static int destroyed, deleted, ran;

static void count_deleted(void *arg) {
  CHECK(arg != NULL);
  ADD(deleted, 1);
}

static void count_destroyed(void *value) {
  CHECK(value == &destroyed);
  ADD(destroyed, 1);
}

static void *once(void *arg) {
  ADD(ran, 1);
  return arg;
}

static void *once_on_core(void *core) {
  swn_vthread_context_t context;
  CHECK_OK(swn_vthread_context(swn_self(), &context, sizeof context));
  CHECK_EQ(context.core, (uintptr_t)core);
  return once(core);
}

static void *wait_for_permit(void *arg) {
  CHECK_OK(swn_sem_acquire((swn_sem_t *)arg, soon()));
  return arg;
}

/* ---- what is done without a core ---------------------------------------------------------------------------------- */

static void spawn_and_join(void) {
  STORE(ran, 0);
  swn_vthread_t vt = spawn(NULL, once, &ran);
  lose_core();
  CHECK(join(vt) == &ran);
  lose_core();
  CHECK(join(spawn(NULL, once, &ran)) == &ran);
  lose_core();
  CHECK(join(spawn(rt, once, &ran)) == &ran); /* by handle */
  CHECK_EQ(LOAD(ran), 3);
}

static void spawn_batch(void) {
  swn_vthread_t vts[100];
  STORE(ran, 0);
  CHECK_EQ(swn_spawn_batch(NULL, once, NULL, COUNT(vts), NULL, vts), COUNT(vts));
  for (size_t i = 0; i < COUNT(vts); i++) join(vts[i]);
  lose_core();
  CHECK_EQ(swn_spawn_batch(NULL, once, NULL, COUNT(vts), NULL, NULL), COUNT(vts));
  AWAIT(LOAD(ran) == 2 * COUNT(vts));
}

static void spawn_with_flags(void) {
  static const uint32_t flags[] = {SWN_SPAWN_FIXED_CORE, SWN_SPAWN_PREFER_CORE, SWN_SPAWN_BOUND, SWN_SPAWN_DETACHED};
  STORE(ran, 0);
  STORE(deleted, 0);
  for (uintptr_t i = 0; i < 2 * COUNT(flags); i++) {
    swn_spawn_options_t options;
    swn_vthread_t vt = 0;
    CHECK_OK(swn_spawn_options_init(&options, sizeof options));
    options.flags = flags[i % COUNT(flags)];
    options.arg_destructor = count_deleted;
    if (options.flags == SWN_SPAWN_FIXED_CORE || options.flags == SWN_SPAWN_PREFER_CORE) options.core = i % cores;
    if (options.flags == SWN_SPAWN_FIXED_CORE) options.arg_destructor = NULL; /* core 0 is NULL */
    if (i == COUNT(flags)) lose_core();
    swn_vthread_fn fn = options.flags == SWN_SPAWN_FIXED_CORE ? once_on_core : once;
    void *arg = options.flags == SWN_SPAWN_FIXED_CORE ? (void *)(uintptr_t)options.core : (void *)&ran;
    CHECK_OK(swn_spawn(NULL, fn, arg, &options, options.flags == SWN_SPAWN_DETACHED ? NULL : &vt));
    if (options.flags != SWN_SPAWN_DETACHED) join(vt);
  }
  AWAIT(LOAD(ran) == 2 * COUNT(flags));
  AWAIT(LOAD(deleted) == 2 * (COUNT(flags) - 1));
}

static void detach_others(void) {
  swn_vthread_t vt = spawn(NULL, wait_for_permit, &empty);
  CHECK_OK(swn_detach(vt));
  CHECK_EQ(swn_detach(vt), -EINVAL);
  CHECK_OK(swn_sem_release(&empty, 1));
  vt = spawn(NULL, once, NULL);
  AWAIT(state_of(vt) == SWN_STATE_DONE);
  lose_core();
  CHECK_OK(swn_detach(vt));
  CHECK_EQ(swn_join(vt, NULL, 0), SWN_ESTALE_HANDLE);
}

static void release_and_acquire(void) {
  swn_vthread_t vt = spawn(NULL, wait_for_permit, &empty);
  CHECK_EQ(swn_sem_try_acquire(&full), 0);
  CHECK_EQ(swn_sem_permits(&full), 0);
  CHECK_EQ(swn_sem_try_acquire(&full), -EAGAIN);
  CHECK_OK(swn_sem_release(&full, 1));
  AWAIT(state_of(vt) == SWN_STATE_WAITING);
  lose_core();
  CHECK_OK(swn_sem_release(&empty, 1)); /* wakes a vthread */
  lose_core();
  CHECK_OK(swn_sem_acquire(&full, soon()));
  join(vt);
  lose_core();
  CHECK_EQ(swn_sem_acquire(&full, swn_deadline_after(MS)), -ETIMEDOUT);
  CHECK_OK(swn_sem_release(&full, 1));
}

static void completed(void *arg, int status) {
  CHECK_OK(status);
  CHECK_OK(swn_sem_release((swn_sem_t *)arg, 1));
}

static void acquire_in_completion_form(void) {
  swn_completion_t op;
  swn_sem_t done;
  CHECK_OK(swn_sem_init(&done, 0));
  CHECK_OK(swn_sem_acquire_then(&empty, NULL, &op, completed, &done));
  lose_core();
  CHECK_OK(swn_sem_release(&empty, 1));
  CHECK_OK(swn_sem_acquire(&done, soon()));
  lose_core();
  CHECK_OK(swn_sem_acquire_then(&full, NULL, &op, completed, &full));
  CHECK_OK(swn_sem_acquire(&full, soon()));
  CHECK_OK(swn_sem_release(&full, 1));
}

static void sleep_and_yield(void) {
  uint64_t end = swn_deadline_after(2 * MS);
  CHECK_OK(swn_sleep_until(end));
  CHECK(swn_now() >= end);
  lose_core();
  CHECK_OK(swn_sleep_until(swn_now() - MS));
  lose_core();
  CHECK_OK(swn_yield());
}

static void join_in_vain(void) {
  swn_vthread_t vt = spawn(NULL, wait_for_permit, &empty);
  CHECK_EQ(swn_join(vt, NULL, swn_deadline_after(MS)), -ETIMEDOUT);
  lose_core();
  CHECK_EQ(swn_join(vt, NULL, 0), -ETIMEDOUT);
  CHECK_EQ(swn_join(swn_self(), NULL, 0), -EDEADLK);
  CHECK_OK(swn_sem_release(&empty, 1));
  lose_core();
  join(vt);
}

static void *echo(void *arg) {
  char bytes[64];
  int64_t n, fd = swn_accept((int)(intptr_t)arg, NULL, NULL, soon());
  CHECK(fd >= 0);
  while ((n = swn_read((int)fd, bytes, sizeof bytes, soon())) > 0) CHECK_EQ(swn_write_all((int)fd, bytes, n, soon()), n);
  CHECK_EQ(n, 0);
  CHECK_OK(swn_close((int)fd));
  return arg;
}

static void talk_over_sockets(void) {
  struct sockaddr_in own;
  socklen_t len = sizeof own;
  char bytes[16];
  int listener = swn_tcp_listen("127.0.0.1", 0, 0, 0);
  CHECK(listener >= 0);
  CHECK_OK(getsockname(listener, (struct sockaddr *)&own, &len));
  CHECK_EQ(swn_accept(listener, NULL, NULL, swn_deadline_after(MS)), -ETIMEDOUT);
  swn_vthread_t vt = spawn(NULL, echo, (void *)(intptr_t)listener);
  lose_core();
  int fd = swn_tcp_connect("127.0.0.1", ntohs(own.sin_port), soon());
  CHECK(fd >= 0);
  for (int i = 0; i < 3; i++) {
    lose_core();
    CHECK_EQ(swn_write_all(fd, "hello", 5, soon()), 5);
    lose_core();
    CHECK_EQ(swn_poll(fd, SWN_POLLIN, soon()), SWN_POLLIN);
    lose_core();
    CHECK_EQ(swn_read(fd, bytes, sizeof bytes, soon()), 5);
    CHECK(memcmp(bytes, "hello", 5) == 0);
    lose_core();
    CHECK_EQ(swn_read(fd, bytes, sizeof bytes, swn_deadline_after(MS)), -ETIMEDOUT);
    lose_core();
    CHECK_EQ(swn_poll(fd, SWN_POLLIN, swn_deadline_after(MS)), -ETIMEDOUT);
  }
  lose_core();
  CHECK_OK(swn_close(fd));
  join(vt);
  CHECK_OK(swn_close(listener));
}

static void *read_closed(void *arg) {
  char byte;
  CHECK_EQ(swn_read(*(int *)arg, &byte, 1, soon()), -ECANCELED);
  return arg;
}

static void use_pipes(void) {
  int fds[2];
  char byte;
  CHECK_OK(swn_pipe(fds));
  CHECK_EQ(swn_read(fds[0], &byte, 1, swn_deadline_after(MS)), -ETIMEDOUT);
  lose_core();
  CHECK_EQ(swn_write(fds[1], "x", 1, soon()), 1);
  lose_core();
  CHECK_EQ(swn_read(fds[0], &byte, 1, 0), 1);
  CHECK_EQ(byte, 'x');
  swn_vthread_t vt = spawn(NULL, read_closed, &fds[0]);
  AWAIT(state_of(vt) == SWN_STATE_WAITING);
  lose_core();
  CHECK_OK(swn_close(fds[0])); /* wakes the reader */
  CHECK(join(vt) == &fds[0]);
  CHECK_OK(swn_fd_forget(fds[1]));
  CHECK_OK(close(fds[1]));
}

static void use_files(void) {
  char path[64], bytes[8];
  snprintf(path, sizeof path, "/tmp/swiftnet-test-%d", (int)getpid());
  int fd = swn_open(path, O_RDWR | O_CREAT | O_TRUNC, 0600, soon());
  CHECK(fd >= 0);
  lose_core();
  CHECK_EQ(swn_pwrite(fd, "0123", 4, 0, soon()), 4);
  lose_core();
  CHECK_EQ(swn_pread(fd, bytes, sizeof bytes, 1, soon()), 3);
  CHECK(memcmp(bytes, "123", 3) == 0);
  lose_core();
  CHECK_OK(swn_fsync(fd, soon()));
  lose_core();
  CHECK_OK(swn_file_close(fd, soon()));
  CHECK_OK(unlink(path));
}

static void *sleep_there(void *arg) {
  CHECK_EQ(swn_self(), 0);
  usleep(2000);
  return arg;
}

static void use_the_pool(void) {
  void *result = NULL;
  struct addrinfo *list = NULL;
  CHECK_OK(swn_offload(sleep_there, &result, &result, soon()));
  CHECK(result == &result);
  lose_core();
  CHECK_OK(swn_getaddrinfo("127.0.0.1", "80", NULL, &list, soon()));
  freeaddrinfo(list);
}

static void use_keys_and_arena(void) {
  CHECK(swn_key_get(key) == NULL);
  CHECK_OK(swn_key_set(key, &destroyed));
  char *small = (char *)swn_arena_alloc(100, 64), *large = (char *)swn_arena_alloc(3 << 20, 0);
  CHECK(small && large && (uintptr_t)small % 64 == 0);
  memset(small, 1, 100);
  memset(large, 2, 3 << 20);
  CHECK_OK(swn_yield());
  CHECK(swn_key_get(key) == &destroyed);
  CHECK(small[99] == 1 && large[(3 << 20) - 1] == 2);
  CHECK_OK(swn_key_set(key, NULL));
}

static void add_up(void *arg, const char *text, size_t len) {
  CHECK(text != NULL);
  *(size_t *)arg += len;
}

static int see(void *arg, const swn_vthread_context_t *vt) {
  if (vt->id == swn_self()) *(uint32_t *)arg = vt->state;
  return 0;
}

static void look_at_statistics(void) {
  swn_stats_t stats = stats_of(NULL);
  size_t len = 0;
  uint32_t state = 99;
  CHECK(stats.live >= 1 && stats.carriers_without_core >= 1 && stats.carriers > cores);
  CHECK_OK(swn_stats_read_core(NULL, 0, &stats, sizeof stats));
  CHECK_OK(swn_stats_json(NULL, add_up, &len));
  CHECK_OK(swn_stats_prometheus(NULL, add_up, &len));
  CHECK(len > 100);
  CHECK(swn_vthread_foreach(NULL, see, &state) >= 1);
  CHECK_EQ(state, SWN_STATE_PREEMPTED);
  CHECK(swn_runtime_current() == rt);
  CHECK_EQ(swn_runtime_stop(rt, 0), -EDEADLK);
}

static void use_sections(void) {
  CHECK_EQ(swn_unpin(), -EINVAL);
  CHECK_EQ(swn_blocking_end(), -EINVAL);
  CHECK_EQ(swn_preempt_enable(), -EINVAL);
  CHECK_OK(swn_blocking_begin());
  usleep(100);
  CHECK_OK(swn_blocking_end());
  lose_core();
  CHECK_OK(swn_pin());
  int thread = thread_id();
  CHECK_OK(swn_sleep_for(MS / 10));
  lose_core();
  CHECK_OK(swn_yield());
  CHECK_EQ(thread_id(), thread);
  lose_core();
  CHECK_OK(swn_unpin());
  lose_core();
  CHECK_OK(swn_preempt_disable());
  CHECK_OK(swn_preempt_enable());
}

/* The compiler computes &errno once per function: each look happens in a function of its own. */
static __attribute__((noinline)) void errno_set(int value) {
  __asm__ volatile("" ::: "memory");
  errno = value;
}

static __attribute__((noinline)) int errno_get(void) {
  __asm__ volatile("" ::: "memory");
  return errno;
}

static void keep_errno(void) {
  errno_set(77);
  CHECK_OK(swn_yield()); /* to another OS thread */
  CHECK_EQ(errno_get(), 77);
  errno_set(78);
  lose_core();
  CHECK_EQ(errno_get(), 78);
  CHECK_OK(swn_sleep_for(MS / 10));
  CHECK_EQ(errno_get(), 78);
}

static void (*const uses[])(void) = {
    spawn_and_join, spawn_batch,  spawn_with_flags,   detach_others,      release_and_acquire,
    sleep_and_yield, join_in_vain, talk_over_sockets,  use_pipes,          use_files,
    use_the_pool,   use_sections, look_at_statistics, use_keys_and_arena, acquire_in_completion_form,
    keep_errno};

static void *use(void *n) {
  lose_core();
  uses[(uintptr_t)n]();
  return n;
}

/* ---- ends --------------------------------------------------------------------------------------------------------- */

static void *end_without_core(void *arg) {
  CHECK_OK(swn_key_set(key, &destroyed));
  CHECK(swn_arena_alloc(10, 0) != NULL);
  lose_core();
  return arg;
}

static void they_end_without_core(void) {
  swn_spawn_options_t options;
  swn_vthread_t vts[16];
  CHECK_OK(swn_spawn_options_init(&options, sizeof options));
  options.arg_destructor = count_deleted;
  STORE(destroyed, 0);
  STORE(deleted, 0);
  swn_stats_t before = stats_of(rt);
  for (size_t i = 0; i < COUNT(vts); i++) CHECK_OK(swn_spawn(rt, end_without_core, &vts[i], &options, &vts[i]));
  options.flags = SWN_SPAWN_DETACHED;
  for (size_t i = 0; i < COUNT(vts); i++) CHECK_OK(swn_spawn(rt, end_without_core, &vts[i], &options, NULL));
  for (size_t i = 0; i < COUNT(vts); i++) CHECK(join(vts[i]) == &vts[i]);
  AWAIT(stats_of(rt).live == 0);
  CHECK_EQ(destroyed, 2 * COUNT(vts));
  CHECK_EQ(deleted, 2 * COUNT(vts));
  CHECK_EQ(stats_of(rt).rejoins, before.rejoins); /* they ended where they were */
  AWAIT(stats_of(rt).stacks_live == before.stacks_live);
  AWAIT(stats_of(rt).carriers_without_core == 0);
}

/* ---- timers ------------------------------------------------------------------------------------------------------- */

/* Nothing but the deadline brings this vthread back: no other event wakes a core that would sleep through it. */
static void *sleep_beside_sleeping_cores(void *arg) {
  int fds[2];
  char byte;
  CHECK_OK(swn_pipe(fds));
  for (uint32_t i = 0; i < scaled(120); i++) {
    lose_core();
    if (i / 4 % 4 == 2) { /* all cores have long been asleep */
      uint64_t until = swn_now() + 60 * SECOND;
      while (stats_of(NULL).cores_parked < cores) CHECK(swn_now() < until);
    }
    uint64_t end = swn_deadline_after(i % 3 * MS + MS / 4);
    switch (i % 4) {
      case 0: CHECK_OK(swn_sleep_until(end)); break;
      case 1: CHECK_EQ(swn_sem_acquire(&empty, end), -ETIMEDOUT); break;
      case 2: CHECK_EQ(swn_read(fds[0], &byte, 1, end), -ETIMEDOUT); break;
      default: CHECK_EQ(swn_poll(fds[0], SWN_POLLIN, end), -ETIMEDOUT); break;
    }
    CHECK(swn_now() >= end);
  }
  CHECK_OK(swn_close(fds[0]));
  CHECK_OK(swn_close(fds[1]));
  return arg;
}

/* ---- http --------------------------------------------------------------------------------------------------------- */

static void answer_without_core(void *arg, swn_http_exchange_t *x) {
  lose_core();
  CHECK_OK(swn_http_set_header(x, "X-Without", "core"));
  if (arg) {
    CHECK_OK(swn_http_respond(x, 200, "text/plain", "done", 4));
    return;
  }
  CHECK_OK(swn_http_chunked_begin(x, 200, "text/plain"));
  CHECK_OK(swn_http_chunked_write(x, "do", 2));
  lose_core();
  CHECK_OK(swn_http_chunked_write(x, "ne", 2));
  CHECK_OK(swn_http_chunked_end(x));
}

static void they_answer_requests(void) {
  static struct response r;
  swn_http_server_t *server = NULL;
  CHECK_OK(swn_http_server_create(rt, NULL, &server));
  CHECK_OK(swn_http_route(server, "GET", "/whole", answer_without_core, &ran));
  CHECK_OK(swn_http_route(server, "GET", "/parts", answer_without_core, NULL));
  int port = swn_http_server_listen(server, "127.0.0.1", 0);
  CHECK(port > 0);
  for (int i = 0; i < 3; i++) {
    struct client *c = client_open(port);
    SEND(c, "GET /whole HTTP/1.1\r\nHost: x\r\n\r\nGET /parts HTTP/1.1\r\nHost: x\r\n\r\n");
    for (int k = 0; k < 2; k++) {
      client_read(c, &r, 0);
      CHECK_EQ(r.status, 200);
      CHECK(strcmp(r.body, "done") == 0);
      CHECK(header_of(&r, "X-Without") != NULL);
    }
    client_close(c);
  }
  CHECK_OK(swn_http_server_stop(server, soon()));
  CHECK_OK(swn_http_server_destroy(server));
}

int main(void) {
  need_hand_off();
  CHECK_OK(swn_key_create(count_destroyed, &key));
  for (cores = 1; cores <= 2; cores++) {
    swn_vthread_t vts[COUNT(uses)];
    CHECK_OK(swn_sem_init(&empty, 0));
    CHECK_OK(swn_sem_init(&full, 1));
    rt = start_preempting(cores, MS, 0, 0);
    for (uintptr_t n = 0; n < COUNT(uses); n++) CHECK(run_in(rt, use, (void *)n) == (void *)n);
    CHECK_EQ(swn_sem_permits(&empty), 0);
    CHECK_EQ(swn_sem_permits(&full), 1);
    they_end_without_core();
    they_answer_requests();
    run_in(rt, sleep_beside_sleeping_cores, NULL);
    for (size_t i = 0; i < 4; i++) vts[i] = spawn(rt, sleep_beside_sleeping_cores, NULL);
    for (size_t i = 0; i < 4; i++) join(vts[i]);
    AWAIT(stats_of(rt).carriers_without_core == 0);
    finish(rt);
  }
  CHECK_OK(swn_key_delete(key));
  return 0;
}
