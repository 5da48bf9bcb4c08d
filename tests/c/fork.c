/* fork: the child finds the inherited runtime refused, not broken, and can start one of its own; the parent goes on.
 * SWN_TEST: skip asan the child of a threaded process may find the sanitizer's locks taken */
#include "check.h"
#include <sys/wait.h>

static swn_sem_t gate;

static void *wait_at_gate(void *arg) {
  CHECK_OK(swn_sem_acquire(&gate, soon()));
  return arg;
}

static void *body(void *arg) {
  CHECK_OK(swn_sleep_for(MS));
  return arg;
}

static void in_child(swn_runtime_t *rt, swn_vthread_t vt) {
  swn_vthread_t other;
  swn_stats_t stats;
  swn_features_t features;
  CHECK_EQ(swn_spawn(rt, body, NULL, NULL, &other), SWN_EFORKED);
  CHECK_EQ(swn_spawn_batch(rt, body, NULL, 2, NULL, NULL), SWN_EFORKED);
  CHECK_EQ(swn_runtime_stop(rt, soon()), SWN_EFORKED);
  CHECK_EQ(swn_stats_read(rt, &stats, sizeof stats), SWN_EFORKED);
  CHECK_EQ(swn_runtime_features(rt, &features, sizeof features), SWN_EFORKED);
  int status = swn_join(vt, NULL, soon());
  CHECK(status == SWN_EFORKED || status == SWN_ESTALE_HANDLE);
  CHECK_EQ(swn_self(), 0);
  CHECK_EQ(swn_runtime_destroy(rt), SWN_EFORKED); /* gives up what was inherited */

  int fds[2];
  swn_runtime_t *own = start(2);
  for (int i = 0; i < 100; i++) CHECK(run_in(own, body, &own) == &own);
  CHECK_OK(swn_pipe(fds));
  CHECK_EQ(swn_write(fds[1], "x", 1, soon()), 1);
  char byte;
  CHECK_EQ(swn_read(fds[0], &byte, 1, soon()), 1);
  finish(own);
}

int main(void) {
  swn_runtime_t *rt = start(2);
  for (uint32_t i = 0; i < scaled(10); i++) {
    swn_vthread_t vt = spawn(rt, wait_at_gate, NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
      alarm(60); /* a child that hangs must not outlive the test */
      in_child(rt, vt);
      _exit(0);
    }
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK_OK(swn_sem_release(&gate, 1));
    join(vt);
  }
  finish(rt);
  return 0;
}
