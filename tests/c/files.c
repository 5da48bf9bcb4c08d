/* Files and host calls through the offload pool: results, errors, from both kinds of thread, more calls than pool
 * threads, and a blocking call that holds up no other vthread. */
#include "check.h"
#include <fcntl.h>

static char path[100];

static void *one_file(void *arg) {
  char buf[16];
  char own[128];
  snprintf(own, sizeof own, "%s-%lx", path, (unsigned long)(uintptr_t)arg);
  CHECK_EQ(swn_open("/nonexistent/file", O_RDONLY, 0, soon()), -ENOENT);
  int fd = swn_open(own, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600, soon());
  CHECK(fd >= 0);
  CHECK_EQ(swn_pwrite(fd, "0123456789", 10, 0, soon()), 10);
  CHECK_EQ(swn_pwrite(fd, "ab", 2, 4, soon()), 2);
  CHECK_EQ(swn_pread(fd, buf, sizeof buf, 2, soon()), 8);
  CHECK(memcmp(buf, "23ab6789", 8) == 0);
  CHECK_EQ(swn_pread(fd, buf, sizeof buf, 100, soon()), 0);
  CHECK_OK(swn_fsync(fd, soon()));
  CHECK_OK(swn_file_close(fd, soon()));
  if (arg == NULL) CHECK_EQ(swn_pread(fd, buf, 1, 0, soon()), -EBADF); /* alone: nobody takes the number */
  CHECK_OK(unlink(own));
  return arg;
}

static int gate_open, inside;

static void *block(void *arg) {
  CHECK_EQ(swn_self(), 0); /* a thread of the pool, not the vthread */
  __atomic_add_fetch(&inside, 1, __ATOMIC_SEQ_CST);
  while (!__atomic_load_n(&gate_open, __ATOMIC_SEQ_CST)) usleep(200);
  return arg;
}

static void *offload_block(void *arg) {
  void *result = NULL;
  CHECK_OK(swn_offload(block, arg, &result, soon()));
  CHECK(result == arg);
  CHECK_OK(swn_offload(block, arg, NULL, soon()));
  return NULL;
}

static void *queue_in_vain(void *arg) {
  /* Both threads of the pool are taken: the deadline bounds the queueing. */
  void *result = NULL;
  CHECK_EQ(swn_offload(block, arg, &result, swn_deadline_after(5 * MS)), -ETIMEDOUT);
  CHECK(result == NULL);
  return NULL;
}

int main(void) {
  snprintf(path, sizeof path, "/tmp/swiftnet-test-%d", (int)getpid());
  swn_runtime_options_t options;
  swn_runtime_t *rt = NULL;
  CHECK_OK(swn_runtime_options_init(&options, sizeof options));
  options.cores = 1;
  options.offload_threads = 2;
  CHECK_OK(swn_runtime_start(&options, &rt));
  swn_vthread_t vts[50];
  for (size_t i = 0; i < COUNT(vts); i++) vts[i] = spawn(rt, one_file, (void *)(uintptr_t)(i + 1));
  for (size_t i = 0; i < COUNT(vts); i++) join(vts[i]);
  one_file(NULL); /* from an OS thread */

  /* One core, eight blocking calls, two threads: everything else goes on. */
  for (size_t i = 0; i < 8; i++) vts[i] = spawn(rt, offload_block, &vts[i]);
  AWAIT(__atomic_load_n(&inside, __ATOMIC_SEQ_CST) == 2);
  run_in(rt, queue_in_vain, NULL);
  CHECK_EQ(__atomic_load_n(&inside, __ATOMIC_SEQ_CST), 2);
  __atomic_store_n(&gate_open, 1, __ATOMIC_SEQ_CST);
  for (size_t i = 0; i < 8; i++) join(vts[i]);
  CHECK_EQ(inside, 16);
  finish(rt);
  return 0;
}
