/* One semaphore under all three kinds of waiter at once, with time-outs and cancels racing the grants: permits are
 * neither lost nor made, and no holder is ever beside another. */
#include "check.h"
#include <pthread.h>

static swn_runtime_t *rt;
static swn_sem_t lock, ticks;
static int holders;
static uint64_t held, timed_out, completed, cancelled;

static void hold(void) {
  CHECK_EQ(__atomic_add_fetch(&holders, 1, __ATOMIC_SEQ_CST), 1);
  __atomic_add_fetch(&held, 1, __ATOMIC_SEQ_CST);
  __atomic_sub_fetch(&holders, 1, __ATOMIC_SEQ_CST);
  CHECK_OK(swn_sem_release(&lock, 1));
}

static void *locker(void *arg) {
  uint32_t rounds = *(uint32_t *)arg;
  for (uint32_t i = 0; i < rounds; i++) {
    uint64_t deadline = i % 4 == 3 ? swn_deadline_after((i % 64) * 1000) : soon();
    int status = swn_sem_acquire(&lock, deadline);
    if (status == -ETIMEDOUT) {
      CHECK_EQ(i % 4, 3);
      __atomic_add_fetch(&timed_out, 1, __ATOMIC_SEQ_CST);
    } else {
      CHECK_OK(status);
      hold();
    }
  }
  return NULL;
}

struct request {
  swn_completion_t op;
  int over;
};

static void granted(void *arg, int status) {
  struct request *request = (struct request *)arg;
  if (status == 0)
    hold();
  else
    CHECK_EQ(status, -ECANCELED);
  __atomic_add_fetch(status ? &cancelled : &completed, 1, __ATOMIC_SEQ_CST);
  __atomic_store_n(&request->over, 1, __ATOMIC_SEQ_CST);
  CHECK_OK(swn_sem_release(&ticks, 1));
}

static void *canceller(void *arg) {
  uint32_t rounds = *(uint32_t *)arg;
  for (uint32_t i = 0; i < rounds; i++) {
    struct request request = {.over = 0};
    CHECK_OK(swn_sem_acquire_then(&lock, rt, &request.op, granted, &request));
    int status = i % 2 ? swn_sem_cancel(&lock, &request.op) : -ENOENT;
    CHECK(status == 0 || status == -ENOENT);
    /* The storage is ours again once fn ran. */
    while (!__atomic_load_n(&request.over, __ATOMIC_SEQ_CST)) CHECK_OK(swn_sem_acquire(&ticks, soon()));
  }
  return NULL;
}

int main(void) {
  uint32_t rounds = scaled(5000), small = scaled(1000);
  rt = start(2);
  CHECK_OK(swn_sem_init(&lock, 1));
  swn_vthread_t vts[20], others[4];
  pthread_t threads[3];
  for (size_t i = 0; i < COUNT(vts); i++) vts[i] = spawn(rt, locker, &rounds);
  for (size_t i = 0; i < COUNT(threads); i++) CHECK_OK(pthread_create(&threads[i], NULL, locker, &rounds));
  /* One canceller: `ticks` has one reader, so no token can be taken by another. */
  others[0] = spawn(rt, canceller, &small);
  for (size_t i = 0; i < COUNT(vts); i++) join(vts[i]);
  for (size_t i = 0; i < COUNT(threads); i++) CHECK_OK(pthread_join(threads[i], NULL));
  join(others[0]);
  CHECK_EQ(held + timed_out, (uint64_t)rounds * (COUNT(vts) + COUNT(threads)) + completed);
  CHECK_EQ(completed + cancelled, small);
  CHECK_EQ(swn_sem_permits(&lock), 1);
  finish(rt);
  return 0;
}
