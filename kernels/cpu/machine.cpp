#include "kernels/cpu/machine.h"

#include <ATen/Parallel.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <mutex>
#include <thread>

#include "kernels/aten/placement.h"
#include "kernels/aten/random.h"
#include "kernels/cpu/torch_profiler.h"

namespace moai::cpu {

namespace {

c10::DeleterFnPtr real_deleter = nullptr;

void give_back(void* data) {
  if (!aten::return_place(data)) real_deleter(data);
}

// Other threads see no difference but a thread-local load.
class PlacingAllocator final : public c10::Allocator {
 public:
  explicit PlacingAllocator(c10::Allocator* real) : real_(real) {}

  c10::DataPtr allocate(size_t bytes) override {
    void* place = aten::claim_place(c10::DeviceType::CPU, bytes);
    if (place == nullptr) return real_->allocate(bytes);
    return {place, place, &give_back, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    real_->copy_data(to, from, bytes);
  }

 private:
  c10::Allocator* real_;
};

void install_placing_allocator() {
  static std::once_flag once;
  std::call_once(once, [] {
    real_deleter = c10::GetAllocator(c10::DeviceType::CPU)->raw_deleter();
    // Leaked: tensors outlive static destruction.
    c10::SetAllocator(c10::DeviceType::CPU, new PlacingAllocator(c10::GetAllocator(c10::DeviceType::CPU)),
                      255);
    c10::SetCPUAllocator(c10::GetAllocator(c10::DeviceType::CPU), 255);
  });
}

// Torch's number of threads is the calling thread's, and what threads that come later begin with: the
// latter stays what the user set.
void use_threads(int threads) {
  const int others = at::get_num_threads();
  if (threads == others) return;
  at::set_num_threads(threads);
  std::thread([others] { at::set_num_threads(others); }).join();
}

class CpuMachine final : public aten::Machine {
 public:
  explicit CpuMachine(int threads) : threads_(threads) {}

  c10::Device device() const override { return c10::Device(c10::DeviceType::CPU); }
  c10::DispatchKey dispatch_key() const override { return c10::DispatchKey::CPU; }
  void attach() override {
    install_placing_allocator();
    mark_worker_thread();
    use_threads(threads_);
  }
  aten::Kernel kernel(const std::string&) const override { return nullptr; }
  aten::Sampler sampler(const std::string& op) const override { return aten::find_sampler(op); }
  void finish() override {}

 private:
  const int threads_;
};

}  // namespace

std::unique_ptr<aten::Machine> make_machine(int threads) { return std::make_unique<CpuMachine>(threads); }

}  // namespace moai::cpu
