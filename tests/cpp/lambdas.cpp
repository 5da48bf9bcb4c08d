// Plain C++20 over the C functions: lambdas as vthreads with owned state, RAII over handles, a parallel sum.
#include "check.h"

#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

class Runtime {
 public:
  explicit Runtime(uint32_t cores) : rt_(start(cores)) {}
  Runtime(const Runtime &) = delete;
  Runtime &operator=(const Runtime &) = delete;
  ~Runtime() { finish(rt_); }

  // The destructor of the argument runs on the vthread whether fn ran or not.
  template <class F>
  swn_vthread_t spawn(F fn) {
    swn_spawn_options_t options;
    swn_vthread_t vt = 0;
    CHECK_OK(swn_spawn_options_init(&options, sizeof options));
    options.arg_destructor = [](void *arg) { delete static_cast<std::function<void()> *>(arg); };
    auto owned = std::make_unique<std::function<void()>>(std::move(fn));
    CHECK_OK(swn_spawn(rt_, [](void *arg) -> void * { return (*static_cast<std::function<void()> *>(arg))(), nullptr; },
                       owned.get(), &options, &vt));
    owned.release();
    return vt;
  }

 private:
  swn_runtime_t *rt_;
};

int main() {
  Runtime runtime(2);
  std::vector<uint64_t> numbers(100000);
  std::iota(numbers.begin(), numbers.end(), 1);
  std::vector<uint64_t> sums(100);
  std::vector<swn_vthread_t> vts;
  auto tracked = std::make_shared<std::string>("owned by every lambda");
  for (size_t part = 0; part < sums.size(); part++) {
    vts.push_back(runtime.spawn([&, part, tracked] {
      size_t size = numbers.size() / sums.size();
      auto begin = numbers.begin() + static_cast<std::ptrdiff_t>(part * size);
      sums[part] = std::accumulate(begin, begin + static_cast<std::ptrdiff_t>(size), uint64_t{0});
      CHECK_OK(swn_yield());
      CHECK(tracked->size() == 21);
    }));
  }
  for (swn_vthread_t vt : vts) join(vt);
  CHECK_EQ(std::accumulate(sums.begin(), sums.end(), uint64_t{0}), 5000050000);
  CHECK_EQ(tracked.use_count(), 1);

  // A std::thread hands over to a vthread and back.
  swn_sem_t ping{}, pong{};
  swn_vthread_t echo = runtime.spawn([&] {
    for (int i = 0; i < 100; i++) {
      CHECK_OK(swn_sem_acquire(&ping, soon()));
      CHECK_OK(swn_sem_release(&pong, 1));
    }
  });
  std::thread([&] {
    for (int i = 0; i < 100; i++) {
      CHECK_OK(swn_sem_release(&ping, 1));
      CHECK_OK(swn_sem_acquire(&pong, soon()));
    }
  }).join();
  join(echo);
}
