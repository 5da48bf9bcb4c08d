/* The semaphore and its three kinds of waiter (vthread, OS thread, completion): grants, time-outs, cancelling. */
#include "check.h"
#include <pthread.h>

static swn_runtime_t *rt;

static void counts_and_limits(void) {
  swn_sem_t sem = {{0}}; /* valid without init, before any runtime */
  CHECK_EQ(swn_sem_permits(&sem), 0);
  CHECK_EQ(swn_sem_try_acquire(&sem), -EAGAIN);
  CHECK_EQ(swn_sem_acquire(&sem, 0), -ETIMEDOUT);
  CHECK_OK(swn_sem_release(&sem, 2));
  CHECK_EQ(swn_sem_permits(&sem), 2);
  CHECK_OK(swn_sem_try_acquire(&sem));
  CHECK_OK(swn_sem_acquire(&sem, 0)); /* there is one: no wait is needed */
  CHECK_EQ(swn_sem_try_acquire(&sem), -EAGAIN);
  CHECK_OK(swn_sem_init(&sem, 5));
  CHECK_EQ(swn_sem_permits(&sem), 5);
  CHECK_OK(swn_sem_init(&sem, SWN_SEM_MAX));
  CHECK_EQ(swn_sem_release(&sem, 1), -EOVERFLOW);
  CHECK_EQ(swn_sem_permits(&sem), SWN_SEM_MAX);
  CHECK_EQ(swn_sem_init(&sem, UINT32_C(0xffffffff)), -ERANGE);
  CHECK_OK(swn_sem_init(&sem, 1));
  CHECK_EQ(swn_sem_release(&sem, UINT32_C(0xffffffff)), -EOVERFLOW);
  CHECK_EQ(swn_sem_permits(&sem), 1);
}

struct wait {
  swn_sem_t sem;
  uint64_t deadline;
  int status;
  int waiting;
};

static void *acquire(void *arg) {
  struct wait *wait = (struct wait *)arg;
  __atomic_store_n(&wait->waiting, 1, __ATOMIC_SEQ_CST);
  wait->status = swn_sem_acquire(&wait->sem, wait->deadline);
  return NULL;
}

static void both_threads_and_vthreads_wait_and_time_out(void) {
  for (int late = 0; late < 2; late++) {
    struct wait in_vthread = {.deadline = late ? swn_deadline_after(10 * MS) : soon()};
    struct wait in_thread = {.deadline = in_vthread.deadline};
    pthread_t thread;
    swn_vthread_t vt = spawn(rt, acquire, &in_vthread);
    CHECK_OK(pthread_create(&thread, NULL, acquire, &in_thread));
    AWAIT(__atomic_load_n(&in_vthread.waiting, __ATOMIC_SEQ_CST));
    AWAIT(__atomic_load_n(&in_thread.waiting, __ATOMIC_SEQ_CST));
    if (!late) {
      swn_sleep_for(2 * MS); /* so that both are likely to be parked; right either way */
      CHECK_OK(swn_sem_release(&in_vthread.sem, 1));
      CHECK_OK(swn_sem_release(&in_thread.sem, 1));
    }
    join(vt);
    CHECK_OK(pthread_join(thread, NULL));
    CHECK_EQ(in_vthread.status, late ? -ETIMEDOUT : 0);
    CHECK_EQ(in_thread.status, late ? -ETIMEDOUT : 0);
    CHECK_EQ(swn_sem_permits(&in_vthread.sem), 0);
  }
}

struct completion {
  swn_completion_t op;
  int status;
  int calls;
  swn_sem_t *next; /* acquired in the completion: it is host code on a vthread, so it may wait */
};

static void complete(void *arg, int status) {
  struct completion *completion = (struct completion *)arg;
  CHECK(swn_self() != 0);
  completion->status = status;
  if (completion->next) CHECK_OK(swn_sem_acquire(completion->next, soon()));
  __atomic_add_fetch(&completion->calls, 1, __ATOMIC_SEQ_CST);
}

#define CALLED(c) (__atomic_load_n(&(c).calls, __ATOMIC_SEQ_CST) == 1)

static void completions_are_called_once(void) {
  swn_sem_t sem = {{0}};
  struct completion a = {.status = 99}, b = {.status = 99};
  /* Granted at once, and granted later. */
  CHECK_OK(swn_sem_release(&sem, 1));
  CHECK_OK(swn_sem_acquire_then(&sem, rt, &a.op, complete, &a));
  AWAIT(CALLED(a));
  CHECK_EQ(a.status, 0);
  CHECK_OK(swn_sem_acquire_then(&sem, rt, &b.op, complete, &b));
  swn_sleep_for(MS);
  CHECK_EQ(b.calls, 0);
  CHECK_OK(swn_sem_release(&sem, 1));
  AWAIT(CALLED(b));
  CHECK_EQ(b.status, 0);
  CHECK_EQ(swn_sem_cancel(&sem, &b.op), -ENOENT);
  CHECK_EQ(swn_sem_permits(&sem), 0);
}

static void completions_can_be_cancelled(void) {
  swn_sem_t sem = {{0}};
  struct completion a = {.status = 99};
  CHECK_OK(swn_sem_acquire_then(&sem, rt, &a.op, complete, &a));
  CHECK_OK(swn_sem_cancel(&sem, &a.op));
  AWAIT(CALLED(a));
  CHECK_EQ(a.status, -ECANCELED);
  CHECK_OK(swn_sem_release(&sem, 1));
  CHECK_EQ(swn_sem_permits(&sem), 1);
  swn_sleep_for(MS);
  CHECK_EQ(a.calls, 1);
}

static void a_waiting_completion_holds_up_no_other(void) {
  swn_sem_t sem = {{0}}, gate = {{0}};
  enum { N = 50 };
  static struct completion waits[N], quick[N];
  for (int i = 0; i < N; i++) {
    waits[i].next = &gate;
    CHECK_OK(swn_sem_acquire_then(&sem, rt, &waits[i].op, complete, &waits[i]));
    CHECK_OK(swn_sem_acquire_then(&sem, rt, &quick[i].op, complete, &quick[i]));
  }
  CHECK_OK(swn_sem_release(&sem, 2 * N));
  for (int i = 0; i < N; i++) AWAIT(CALLED(quick[i]));
  CHECK_OK(swn_sem_release(&gate, N));
  for (int i = 0; i < N; i++) AWAIT(CALLED(waits[i]));
}

static int arrived, order_next, order[10];

static void *in_order(void *arg) {
  struct wait *wait = (struct wait *)arg;
  __atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST);
  CHECK_OK(swn_sem_acquire(&wait->sem, soon()));
  int at = __atomic_fetch_add(&order_next, 1, __ATOMIC_SEQ_CST);
  order[at] = 1;
  return NULL;
}

static void one_release_of_many_wakes_all(void) {
  struct wait wait = {.status = 0};
  swn_vthread_t vts[10];
  for (size_t i = 0; i < COUNT(vts); i++) vts[i] = spawn(rt, in_order, &wait);
  AWAIT(__atomic_load_n(&arrived, __ATOMIC_SEQ_CST) == 10);
  CHECK_OK(swn_sem_release(&wait.sem, 10));
  for (size_t i = 0; i < COUNT(vts); i++) join(vts[i]);
  CHECK_EQ(swn_sem_permits(&wait.sem), 0);
}

int main(void) {
  counts_and_limits();
  rt = start(2);
  both_threads_and_vthreads_wait_and_time_out();
  completions_are_called_once();
  completions_can_be_cancelled();
  a_waiting_completion_holds_up_no_other();
  one_release_of_many_wakes_all();
  finish(rt);
  return 0;
}
