// Exceptions beside cores that change hands: what is thrown before an overrun, a blocking call or a wait is caught after it,
// with everything that was being unwound, on whatever OS thread. SWN_TEST_SECONDS: how long, 3 by default.
//
// SWN_TEST: skip valgrind it takes switches on carriers that come and go for function calls, and cores are not certain to be handed over
#include "preempt.h"

#include <algorithm>
#include <exception>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

static int ending;
static uint64_t caught, moved;

// Overruns its slice, blocks, or waits.
static void lose_time(unsigned i) {
  switch (i % 7) {
    case 0: compute_for(2 * MS); break;
    case 1: CHECK_OK(swn_yield()); break;
    case 2: CHECK_OK(swn_sleep_for(i % 11 * MS / 10)); break;
    case 3: usleep(i % 13 * 200); break;
    case 4:
      compute_for(3 * MS / 2);
      CHECK_OK(swn_yield());
      break;
    case 5:
      CHECK_OK(swn_blocking_begin());
      CHECK_OK(swn_blocking_end());
      break;
    default: compute_for(MS / 20); break;
  }
}

struct LosesTimeOnUnwind {
  unsigned i;
  std::string text;
  ~LosesTimeOnUnwind() {
    CHECK_EQ(std::uncaught_exceptions(), 1);
    lose_time(i);
    CHECK_EQ(std::uncaught_exceptions(), 1);
    CHECK(text == "guard " + std::to_string(i));
    try {
      lose_time(i + 1);
      throw i;
    } catch (unsigned inner) {
      lose_time(i + 2);
      CHECK_EQ(inner, i);
    }
    CHECK_EQ(std::uncaught_exceptions(), 1);
  }
};

static void descend(unsigned i, unsigned depth) {
  LosesTimeOnUnwind guard{i + depth, "guard " + std::to_string(i + depth)};
  if (depth > 0) return descend(i, depth - 1);
  throw std::runtime_error("thrown " + std::to_string(i));
}

static void round_of(unsigned i) {
  CHECK_EQ(std::uncaught_exceptions(), 0);
  CHECK(std::current_exception() == nullptr);
  try {
    descend(i, i % 3);
    CHECK(false);
  } catch (const std::runtime_error &e) {
    lose_time(i + 3);
    CHECK_EQ(std::uncaught_exceptions(), 0);
    CHECK(e.what() == "thrown " + std::to_string(i));
    std::exception_ptr kept = std::current_exception();
    try {
      lose_time(i + 4);
      throw std::logic_error("inner " + std::to_string(i));
    } catch (const std::logic_error &inner) {
      lose_time(i + 5);
      CHECK(inner.what() == "inner " + std::to_string(i));
    }
    CHECK(kept == std::current_exception());
    try {
      std::rethrow_exception(kept);
    } catch (const std::runtime_error &again) {
      lose_time(i + 6);
      CHECK(again.what() == "thrown " + std::to_string(i));
    }
  }
  std::map<std::string, std::vector<int>> memory;
  for (int k = 0; k < 50; k++) memory[std::to_string(k % 10)].push_back(k);
  CHECK_EQ(memory.size(), 10);
  ADD(caught, 1);
}

static void *body(void *arg) {
  unsigned mine = static_cast<unsigned>(reinterpret_cast<uintptr_t>(arg));
  int thread = thread_id();
  for (unsigned i = mine; !LOAD(ending); i++) {
    round_of(i);
    if (thread_id() != thread) ADD(moved, 1);
    thread = thread_id();
  }
  return arg;
}

static void throw_for(uint32_t cores, uint32_t preemption, uint64_t for_ns) {
  swn_runtime_t *rt = start_preempting(cores, MS, preemption, 50);
  std::vector<swn_vthread_t> vts;
  STORE(ending, 0);
  STORE(caught, 0);
  STORE(moved, 0);
  for (uintptr_t i = 0; i < 20; i++) vts.push_back(spawn(rt, body, reinterpret_cast<void *>(i * 1000)));
  uint64_t until = swn_now() + for_ns;
  while (swn_now() < until) swn_sleep_for(MS);
  AWAIT(LOAD(caught) >= 20 && LOAD(moved) > 0);
  STORE(ending, 1);
  for (swn_vthread_t vt : vts) join(vt);
  swn_stats_t stats = stats_of(rt);
  if (hands_off(rt)) CHECK(stats.preempted + stats.handoffs_blocked > 0);
  CHECK(stats.handoffs_announced > 0);
  AWAIT(stats_of(rt).carriers_without_core == 0);
  finish(rt);
}

int main() {
  const char *text = std::getenv("SWN_TEST_SECONDS");
  uint64_t each_ns = std::max(1, text ? std::atoi(text) : 3) * SECOND / 3;
  throw_for(1, SWN_PREEMPT_HANDOFF, each_ns);
  throw_for(2, SWN_PREEMPT_HANDOFF, each_ns);
  throw_for(2, SWN_PREEMPT_STOP, each_ns);
}
