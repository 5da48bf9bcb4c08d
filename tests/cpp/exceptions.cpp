// C++ exception state moves with the vthread: waits inside catch blocks, rethrowing after others threw on the same OS
// threads, waits in destructors while an exception flies, nested exceptions.
#include "check.h"

#include <atomic>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

static void wait_somehow(unsigned i) {
  if (i % 3 == 0)
    CHECK_OK(swn_yield());
  else
    CHECK_OK(swn_sleep_for(i % 7 * 20000));
}

// Waits while an exception passes through.
struct WaitsOnUnwind {
  unsigned i;
  ~WaitsOnUnwind() {
    CHECK_EQ(std::uncaught_exceptions(), 1);
    wait_somehow(i);
    CHECK_EQ(std::uncaught_exceptions(), 1);
    try {
      throw i;
    } catch (unsigned inner) {
      CHECK_EQ(std::uncaught_exceptions(), 1);
      wait_somehow(i + 1);
      CHECK_EQ(inner, i);
    }
    CHECK_EQ(std::uncaught_exceptions(), 1);
  }
};

static void throw_through(unsigned i) {
  WaitsOnUnwind guard{i};
  throw std::runtime_error(std::to_string(i));
}

static void rethrow_nested(unsigned i) {
  try {
    throw std::runtime_error("outer " + std::to_string(i));
  } catch (const std::runtime_error &) {
    wait_somehow(i);
    try {
      throw std::logic_error("inner " + std::to_string(i));
    } catch (const std::logic_error &inner) {
      wait_somehow(i + 1);
      CHECK(inner.what() == "inner " + std::to_string(i));
    }
    wait_somehow(i + 2);
    throw; // the outer one again, by now perhaps on another OS thread
  }
}

static void *body(void *arg) {
  unsigned mine = static_cast<unsigned>(reinterpret_cast<uintptr_t>(arg));
  for (unsigned i = mine; i < mine + scaled(30); i++) {
    CHECK_EQ(std::uncaught_exceptions(), 0);
    CHECK(std::current_exception() == nullptr);
    try {
      throw_through(i);
      CHECK(false);
    } catch (const std::runtime_error &e) {
      CHECK_EQ(std::uncaught_exceptions(), 0);
      wait_somehow(i);
      CHECK(e.what() == std::to_string(i));
      std::exception_ptr kept = std::current_exception();
      wait_somehow(i + 1);
      CHECK(kept == std::current_exception());
      try {
        std::rethrow_exception(kept);
      } catch (const std::runtime_error &again) {
        CHECK(again.what() == std::to_string(i));
      }
    }
    try {
      rethrow_nested(i);
      CHECK(false);
    } catch (const std::runtime_error &e) {
      CHECK(e.what() == "outer " + std::to_string(i));
    }
  }
  return arg;
}

// Fresh vthreads see nothing of what their OS thread was in the middle of.
static void *fresh(void *arg) {
  CHECK_EQ(std::uncaught_exceptions(), 0);
  CHECK(std::current_exception() == nullptr);
  return arg;
}

static void *spawn_in_catch(void *arg) {
  try {
    throw 1;
  } catch (int) {
    for (int i = 0; i < 50; i++) join(spawn(nullptr, fresh, nullptr));
    CHECK(std::current_exception() != nullptr);
  }
  return arg;
}

int main() {
  swn_runtime_t *rt = start(2);
  std::vector<swn_vthread_t> vts;
  for (uintptr_t i = 0; i < 60; i++) {
    vts.push_back(spawn(rt, body, reinterpret_cast<void *>(i * 1000)));
    if (i % 10 == 0) vts.push_back(spawn(rt, spawn_in_catch, nullptr));
  }
  for (swn_vthread_t vt : vts) join(vt);
  finish(rt);
}
