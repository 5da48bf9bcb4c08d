/* Calls that find what they want and so never wait give up the turn all the same: after so many of them, in every mode,
 * and at the first one after the slice is over. And the options that belong to it. */
#include "preempt.h"
#include <sys/socket.h>

enum { CALLS = 1100 }; /* four times the budget of 256 */
static swn_runtime_t *rt;
static uint64_t turns;
static int end, ready;
static int pair[2], pipes[2];
static swn_sem_t permits;
static swn_vthread_t ended[CALLS];

static void *take_turns(void *arg) {
  STORE(ready, 1);
  while (!LOAD(end)) {
    ADD(turns, 1);
    CHECK_OK(swn_yield());
  }
  return arg;
}

static void *nothing(void *arg) { return arg; }

/* ---- calls that have no reason to wait ---------------------------------------------------------------------------- */

static void read_socket(int i) {
  char byte = (char)i;
  (void)i;
  CHECK_EQ(send(pair[1], &byte, 1, 0), 1);
  CHECK_EQ(swn_read(pair[0], &byte, 1, soon()), 1);
}

static void write_and_receive(int i) {
  char byte = (char)i;
  CHECK_EQ(swn_write(pair[1], &byte, 1, soon()), 1);
  CHECK_EQ(recv(pair[0], &byte, 1, MSG_DONTWAIT), 1);
}

static void poll_socket(int i) {
  (void)i;
  CHECK_EQ(swn_poll(pair[1], SWN_POLLOUT, soon()), SWN_POLLOUT);
}

static void acquire_permit(int i) {
  (void)i;
  CHECK_OK(swn_sem_acquire(&permits, soon()));
  CHECK_OK(swn_sem_release(&permits, 1));
}

static void join_ended(int i) { CHECK_OK(swn_join(ended[i], NULL, soon())); }

static void sleep_until_past(int i) {
  (void)i;
  CHECK_OK(swn_sleep_until(1));
}

static void time_out(int i) {
  char byte;
  (void)i;
  CHECK_EQ(swn_read(pipes[0], &byte, 1, 0), -ETIMEDOUT);
}

static const struct {
  const char *name;
  void (*call)(int);
} kinds[] = {{"read", read_socket},      {"write", write_and_receive}, {"poll", poll_socket},
             {"acquire", acquire_permit}, {"join", join_ended},         {"sleep", sleep_until_past},
             {"time out", time_out}};

/* Several rounds, because on a loaded machine the other may be off its CPU, without a core, for all of one. */
enum { ROUNDS = 20 };

static void *call_on(void *n) {
  uintptr_t kind = (uintptr_t)n;
  uint64_t had = 0;
  for (int round = 0; round < ROUNDS && had < 3; round++) {
    if (kinds[kind].call == join_ended) {
      CHECK_EQ(swn_spawn_batch(NULL, nothing, NULL, CALLS, NULL, ended), CALLS);
      for (int i = 0; i < CALLS; i++) AWAIT(state_of(ended[i]) == SWN_STATE_DONE);
    }
    AWAIT(LOAD(ready));
    CHECK_OK(swn_yield());
    uint64_t before = LOAD(turns);
    for (int i = 0; i < CALLS; i++) kinds[kind].call(i);
    had = LOAD(turns) - before;
  }
  if (had < 3) {
    fprintf(stderr, "%s: %d calls, %llu turns of the other\n", kinds[kind].name, CALLS, (unsigned long long)had);
    _exit(1);
  }
  return n;
}

static void none_starves_others(uint32_t preemption, uint64_t slice_ns) {
  rt = start_preempting(1, slice_ns, preemption, 0);
  STORE(end, 0);
  STORE(ready, 0);
  swn_vthread_t other = spawn(rt, take_turns, NULL);
  for (uintptr_t n = 0; n < COUNT(kinds); n++) {
    uint64_t before = stats_of(rt).budget_yields;
    CHECK(run_in(rt, call_on, (void *)n) == (void *)n);
    if (slice_ns > SECOND) CHECK(stats_of(rt).budget_yields - before >= 3);
  }
  if (slice_ns > SECOND) CHECK_EQ(stats_of(rt).preempted, 0);
  STORE(end, 1);
  join(other);
  finish(rt);
}

/* ---- the slice ---------------------------------------------------------------------------------------------------- */

/* Fewer calls than the budget has, each after some work: a turn that is given up is given up for its length. */
static void *work_and_call(void *arg) {
  uint64_t until = soon();
  for (uint64_t before = stats_of(NULL).budget_yields; stats_of(NULL).budget_yields == before;) {
    CHECK(swn_now() < until);
    CHECK_OK(swn_yield());
    for (int i = 0; i < 200 && stats_of(NULL).budget_yields == before; i++) {
      compute_for(MS / 20);
      read_socket(i);
    }
  }
  return arg;
}

static void a_turn_ends_at_a_call(uint64_t slice_ns) {
  rt = start_preempting(1, slice_ns, 0, 0);
  if (hands_off(rt)) run_in(rt, work_and_call, NULL);
  finish(rt);
}

/* ---- options ------------------------------------------------------------------------------------------------------ */

static int try_start(uint64_t slice_ns, uint32_t preemption, uint32_t carriers_max) {
  swn_runtime_options_t options;
  swn_runtime_t *runtime = NULL;
  swn_features_t features;
  CHECK_OK(swn_runtime_options_init(&options, sizeof options));
  options.cores = 2;
  options.slice_ns = slice_ns;
  options.preemption = preemption;
  options.carriers_max = carriers_max;
  int status = swn_runtime_start(&options, &runtime);
  if (status) {
    CHECK(runtime == NULL);
    return status;
  }
  CHECK_OK(swn_runtime_features(runtime, &features, sizeof features));
  CHECK_EQ(features.slice_ns, slice_ns ? slice_ns : 10 * MS);
  uint32_t best = preemption == SWN_PREEMPT_AUTO ? SWN_PREEMPT_HANDOFF : preemption;
  CHECK(features.preemption == best || (in_mode("valgrind") && features.preemption == SWN_PREEMPT_COOPERATIVE));
  CHECK(run_in(runtime, nothing, &runtime) == &runtime);
  CHECK(stats_of(runtime).carriers >= 2);
  finish(runtime);
  return status;
}

static void options_have_bounds(void) {
  CHECK_OK(try_start(0, 0, 0));
  CHECK_OK(try_start(MS / 10, SWN_PREEMPT_AUTO, 1)); /* fewer than cores: the cores */
  CHECK_OK(try_start(10 * SECOND, SWN_PREEMPT_COOPERATIVE, 2));
  CHECK_OK(try_start(MS, SWN_PREEMPT_HANDOFF, 32768));
  CHECK_OK(try_start(MS, SWN_PREEMPT_STOP, 100));
  CHECK_EQ(try_start(MS / 10 - 1, 0, 0), -ERANGE);
  CHECK_EQ(try_start(10 * SECOND + 1, 0, 0), -ERANGE);
  CHECK_EQ(try_start(UINT64_MAX, 0, 0), -ERANGE);
  CHECK_EQ(try_start(0, 4, 0), -EINVAL);
  CHECK_EQ(try_start(0, UINT32_MAX, 0), -EINVAL);
  CHECK_EQ(try_start(0, 0, 32769), -ERANGE);
  CHECK_EQ(try_start(0, 0, UINT32_MAX), -ERANGE);
}

int main(void) {
  CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
  CHECK_OK(swn_pipe(pipes));
  CHECK_OK(swn_sem_init(&permits, 1));
  options_have_bounds();
  none_starves_others(SWN_PREEMPT_COOPERATIVE, 10 * SECOND);
  none_starves_others(SWN_PREEMPT_AUTO, 10 * SECOND);
  none_starves_others(SWN_PREEMPT_AUTO, MS / 10);
  a_turn_ends_at_a_call(MS / 2);
  a_turn_ends_at_a_call(MS);
  CHECK_OK(swn_close(pair[0]));
  CHECK_OK(swn_close(pair[1]));
  CHECK_OK(swn_close(pipes[0]));
  CHECK_OK(swn_close(pipes[1]));
  return 0;
}
