// Times collectives in shared memory against memcpy, in turn; prints `name wall_seconds cpu_seconds` lines.
// See communicator.py.
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "runtime/device.h"
#include "runtime/shared_memory.h"

namespace {

using namespace moai::runtime;

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

float value_of(int device, int64_t i) { return static_cast<float>(device + i % 13); }

class Comparison {
 public:
  Comparison(int count, int64_t bytes, int rounds) : count_(count), elements_(bytes / 4), rounds_(rounds) {}

  int run() {
    const auto devices = make_devices(count_, 1, -1);
    std::vector<std::string> names;
    std::vector<int> all;
    for (const auto& device : devices) {
      names.push_back(device->name);
      all.push_back(device->index);
    }
    SharedMemory memory(names);
    std::vector<std::thread> threads;
    for (int d = 0; d < count_; ++d) {
      threads.emplace_back([&, d] { worker(*devices[d], *memory.join(all, d)); });
    }
    for (auto& thread : threads) thread.join();
    return wrong_ ? 1 : 0;
  }

 private:
  void worker(Device& device, Communicator& group) {
    const BlockPtr block = device.memory.allocate(elements_ * 4);
    const BlockPtr other = device.memory.allocate(elements_ * 4);
    auto* data = static_cast<float*>(block->data);
    auto* copy = static_cast<float*>(other->data);
    const auto what = Collective::all_reduce(moai::ir::DType::kF32, {elements_}, Reduce::kSum);
    for (int round = -2; round < rounds_; ++round) {
      for (int64_t i = 0; i < elements_; ++i) data[i] = value_of(device.index, i);
      const bool counts = round >= 0 && device.index == 0;
      timed("memcpy", counts, group, [&] { std::memcpy(copy, data, elements_ * 4); });
      timed("all_reduce_to_another", counts, group, [&] { group.start(what, data, copy)->wait(); });
      check(copy);
      timed("all_reduce", counts, group, [&] { group.start(what, data, data)->wait(); });
      check(data);
    }
  }

  void timed(const char* name, bool counts, Communicator& group, const std::function<void()>& work) {
    const auto barrier = [&] { group.start(Collective::barrier(), nullptr, nullptr)->wait(); };
    barrier();
    const auto start = std::chrono::steady_clock::now();
    const double cpu = cpu_seconds();
    work();
    barrier();
    const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
    if (counts) std::cout << name << ' ' << wall.count() << ' ' << cpu_seconds() - cpu << '\n';
  }

  void check(const float* sums) {
    for (int64_t i = 0; i < elements_; i += 997) {
      float wanted = 0;
      for (int d = 0; d < count_; ++d) wanted += value_of(d, i);
      if (sums[i] != wanted) wrong_ = true;
    }
  }

  int count_;
  int64_t elements_;
  int rounds_;
  std::atomic<bool> wrong_{false};
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: communicator_benchmark WORKERS BYTES ROUNDS\n";
    return 2;
  }
  return Comparison(std::atoi(argv[1]), std::atoll(argv[2]), std::atoi(argv[3])).run();
}
