/* Waiting for signals that the host has blocked: from a vthread and from an OS thread, with time-outs and stop. */
#include "check.h"
#include <signal.h>

#define BIT(signal) (UINT64_C(1) << ((signal) - 1))

static int waiting;

static void *wait_for(void *expected) {
  __atomic_store_n(&waiting, 1, __ATOMIC_SEQ_CST);
  CHECK_EQ(swn_signal_wait(BIT(SIGUSR1) | BIT(SIGUSR2), soon()), (intptr_t)expected);
  return NULL;
}

static void *time_out(void *arg) {
  CHECK_EQ(swn_signal_wait(BIT(SIGUSR1), 0), -ETIMEDOUT);
  CHECK_EQ(swn_signal_wait(BIT(SIGUSR1), swn_deadline_after(2 * MS)), -ETIMEDOUT);
  return arg;
}

static void *until_stopped(void *arg) {
  CHECK_EQ(swn_signal_wait(BIT(SIGUSR1), SWN_FOREVER), -ECANCELED);
  return arg;
}

int main(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigaddset(&set, SIGUSR2);
  CHECK_OK(sigprocmask(SIG_BLOCK, &set, NULL)); /* before the runtime makes its threads */
  swn_runtime_t *rt = start(2);
  for (int i = 0; i < 20; i++) {
    int signal = i % 2 ? SIGUSR1 : SIGUSR2;
    waiting = 0;
    swn_vthread_t vt = spawn(rt, wait_for, (void *)(intptr_t)signal);
    if (i % 4 < 2) AWAIT(__atomic_load_n(&waiting, __ATOMIC_SEQ_CST));
    CHECK_OK(kill(getpid(), signal));
    join(vt);
    /* From this OS thread, with the signal already there. */
    CHECK_OK(kill(getpid(), signal));
    wait_for((void *)(intptr_t)signal);
  }
  run_in(rt, time_out, NULL);
  time_out(NULL);
  CHECK_OK(swn_spawn(rt, until_stopped, NULL, NULL, NULL));
  CHECK_OK(swn_runtime_stop(rt, swn_deadline_after(SECOND)));
  CHECK_OK(swn_runtime_destroy(rt));
  return 0;
}
