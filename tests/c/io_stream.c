/* Unix sockets and pipes: short counts, all of a large write, end of stream, broken pipes, time-outs that lose no
 * byte. */
#include "check.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>

static swn_runtime_t *rt;

static void *unix_echo(void *arg) {
  char buf[64];
  int fd = swn_accept(*(int *)arg, NULL, NULL, soon());
  CHECK(fd >= 0);
  int64_t n = swn_read(fd, buf, sizeof buf, soon());
  CHECK_EQ(swn_write_all(fd, buf, (size_t)n, soon()), n);
  CHECK_OK(swn_close(fd));
  return NULL;
}

static void *unix_client(void *path) {
  char buf[64];
  int fd = swn_unix_connect((const char *)path, soon());
  CHECK(fd >= 0);
  CHECK_EQ(swn_write_all(fd, "hello", 5, soon()), 5);
  CHECK_EQ(swn_read(fd, buf, sizeof buf, soon()), 5);
  CHECK(memcmp(buf, "hello", 5) == 0);
  CHECK_EQ(swn_read(fd, buf, sizeof buf, soon()), 0);
  CHECK_OK(swn_close(fd));
  return NULL;
}

static void unix_sockets(void) {
  char path[100];
  snprintf(path, sizeof path, "/tmp/swiftnet-test-%d.sock", (int)getpid());
  unlink(path);
  CHECK_EQ(swn_unix_connect(path, soon()), -ENOENT);
  int listener = swn_unix_listen(path, 16);
  CHECK(listener >= 0);
  for (int from_thread = 0; from_thread < 2; from_thread++) {
    swn_vthread_t server = spawn(rt, unix_echo, &listener);
    if (from_thread)
      unix_client(path);
    else
      run_in(rt, unix_client, path);
    join(server);
  }
  CHECK_OK(swn_close(listener));
  CHECK_EQ(swn_unix_connect(path, soon()), -ECONNREFUSED);
  unlink(path);
}

enum { LARGE = 3 << 20 };

static void *read_large(void *arg) {
  int fd = *(int *)arg;
  static unsigned char buf[70000];
  uint64_t total = 0;
  int64_t n;
  while ((n = swn_read(fd, buf, sizeof buf, soon())) > 0) {
    for (int64_t i = 0; i < n; i++) CHECK_EQ(buf[i], (unsigned char)((total + (uint64_t)i) * 31 >> 3));
    total += (uint64_t)n;
  }
  CHECK_EQ(n, 0);
  CHECK_EQ(total, LARGE);
  return NULL;
}

static void *write_large(void *arg) {
  unsigned char *data = (unsigned char *)malloc(LARGE);
  for (uint64_t i = 0; i < LARGE; i++) data[i] = (unsigned char)(i * 31 >> 3);
  CHECK_EQ(swn_write_all(*(int *)arg, data, LARGE, soon()), LARGE);
  CHECK_OK(swn_close(*(int *)arg));
  free(data);
  return NULL;
}

static void *pipes(void *arg) {
  int fds[2];
  static char buf[1 << 20];
  CHECK_OK(swn_pipe(fds));
  CHECK(fcntl(fds[0], F_GETFD) & FD_CLOEXEC);
  CHECK(fcntl(fds[1], F_GETFL) & O_NONBLOCK);
  CHECK_EQ(swn_read(fds[0], buf, 1, 0), -ETIMEDOUT);
  CHECK_EQ(swn_read(fds[0], buf, 1, swn_deadline_after(2 * MS)), -ETIMEDOUT);
  /* More than fits: as much as fits, at once; then nothing. */
  int64_t fits = swn_write(fds[1], buf, sizeof buf, soon());
  CHECK(fits > 0 && fits < (int64_t)sizeof buf);
  CHECK_EQ(swn_write(fds[1], buf, sizeof buf, swn_deadline_after(2 * MS)), -ETIMEDOUT);
  CHECK_EQ(swn_poll(fds[1], SWN_POLLOUT, 0), -ETIMEDOUT);
  /* A time-out takes nothing away: all that was written is read. */
  int64_t got = 0;
  while (got < fits) got += swn_read(fds[0], buf, 1000, soon());
  CHECK_EQ(got, fits);
  CHECK_EQ(swn_read(fds[0], buf, 1, 0), -ETIMEDOUT);
  CHECK_OK(swn_close(fds[1]));
  CHECK_EQ(swn_read(fds[0], buf, 1, soon()), 0);
  CHECK_EQ(swn_read(fds[0], buf, 1, 0), 0);
  CHECK_OK(swn_close(fds[0]));

  CHECK_OK(swn_pipe(fds));
  CHECK_OK(swn_close(fds[0]));
  CHECK_EQ(swn_write(fds[1], "x", 1, soon()), -EPIPE);
  CHECK_EQ(swn_write_all(fds[1], "x", 1, soon()), -EPIPE);
  CHECK_OK(swn_close(fds[1]));
  return arg;
}

static int turn_pipes[2][2];

static void *pass_bytes(void *arg) {
  int me = (int)(uintptr_t)arg;
  uint8_t byte = 0;
  uint32_t rounds = scaled(5000);
  for (uint32_t i = 0; i < rounds; i++) {
    if (me == 0) CHECK_EQ(swn_write(turn_pipes[0][1], &byte, 1, soon()), 1);
    CHECK_EQ(swn_read(turn_pipes[1 - me][0], &byte, 1, soon()), 1);
    CHECK_EQ(byte, (uint8_t)(me ? i : i + 1));
    if (me == 1) {
      byte++;
      CHECK_EQ(swn_write(turn_pipes[1][1], &byte, 1, soon()), 1);
    }
  }
  return NULL;
}

int main(void) {
  signal(SIGPIPE, SIG_IGN); /* as a host with pipes has to */
  rt = start(2);
  unix_sockets();
  run_in(rt, pipes, NULL);
  pipes(NULL);

  for (int kind = 0; kind < 2; kind++) {
    int fds[2];
    if (kind == 0)
      CHECK_OK(swn_pipe(fds));
    else
      CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
    swn_vthread_t reader = spawn(rt, read_large, &fds[0]), writer = spawn(rt, write_large, &fds[1]);
    join(writer);
    join(reader);
    CHECK_OK(swn_close(fds[0]));
  }

  for (int i = 0; i < 2; i++) CHECK_OK(swn_pipe(turn_pipes[i]));
  swn_vthread_t a = spawn(rt, pass_bytes, (void *)0), b = spawn(rt, pass_bytes, (void *)1);
  join(a);
  join(b);
  for (int i = 0; i < 4; i++) CHECK_OK(swn_close(turn_pipes[i / 2][i % 2]));
  finish(rt);
  return 0;
}
