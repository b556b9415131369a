#include "kernels/cuda/gpu.h"

#include <ATen/Context.h>
#include <ATen/cuda/CachingHostAllocator.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>

#include "kernels/cuda/event.h"

namespace moai::cuda {

Gpu::Gpu(int index_in)
    : index(static_cast<c10::DeviceIndex>(index_in)),
      compute(c10::cuda::getStreamFromPool(/*isHighPriority=*/true, index)),
      copies(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, index)) {}

Gpu& gpu(int index) {
  static std::mutex lock;
  static auto* all = new std::map<int, std::unique_ptr<Gpu>>;  // streams outlive static destruction
  const std::lock_guard<std::mutex> guard(lock);
  at::globalContext().lazyInitDevice(c10::DeviceType::CUDA);
  auto& one = (*all)[index];
  if (one == nullptr) one = std::make_unique<Gpu>(index);
  return *one;
}

namespace {

// Two pinned buffers in turn: the host fills or empties one while the device copies the other.
class Staging {
 public:
  // Calls copy(pinned, offset, bytes) for each piece of `bytes`, which begins a copy on the stream, and
  // before it fill(pinned, offset, bytes), after it (when the copy is done) empty(pinned, offset, bytes).
  template <typename Fill, typename Copy, typename Empty>
  void run(const Gpu& gpu, int64_t bytes, const Fill& fill, const Copy& copy, const Empty& empty) {
    const std::lock_guard<std::mutex> guard(lock_);
    std::array<int64_t, 2> in_flight{-1, -1};  // by buffer: the offset of its piece
    const auto settle = [&](size_t b) {
      if (in_flight[b] < 0) return;
      done_[b].wait();
      empty(pinned_[b].get(), in_flight[b], std::min(kPiece, bytes - in_flight[b]));
      in_flight[b] = -1;
    };
    size_t turn = 0;
    for (int64_t offset = 0; offset < bytes; offset += kPiece, turn ^= 1) {
      const int64_t piece = std::min(kPiece, bytes - offset);
      if (pinned_[turn].get() == nullptr)
        pinned_[turn] = at::getHostAllocator(at::kCUDA)->allocate(static_cast<size_t>(kPiece));
      settle(turn);
      fill(pinned_[turn].get(), offset, piece);
      copy(pinned_[turn].get(), offset, piece);
      done_[turn].record(gpu.copies);
      in_flight[turn] = offset;
    }
    settle(turn);
    settle(turn ^ 1);
  }

 private:
  static constexpr int64_t kPiece = int64_t{16} << 20;
  std::mutex lock_;
  std::array<c10::DataPtr, 2> pinned_;
  std::array<Event, 2> done_;
};

// Pinned, so that copies go on beside what computes.
class PinnedMemory final : public runtime::MemorySource {
 public:
  void* take(int64_t bytes) override {
    void* data = nullptr;
    if (cudaHostAlloc(&data, static_cast<size_t>(bytes), cudaHostAllocPortable) == cudaSuccess) return data;
    static_cast<void>(cudaGetLastError());  // nobody shall trip over it later
    return nullptr;
  }
  void give_back(void* data, int64_t) override { C10_CUDA_IGNORE_ERROR(cudaFreeHost(data)); }

  bool is_host() const override { return true; }
  void to_host(void* host, const void* device, int64_t bytes) override {
    std::memcpy(host, device, static_cast<size_t>(bytes));
  }
  void to_device(void* device, const void* host, int64_t bytes) override {
    std::memcpy(device, host, static_cast<size_t>(bytes));
  }
};

class GpuMemory final : public runtime::MemorySource {
 public:
  explicit GpuMemory(int index) : index_(index) {}

  void* take(int64_t bytes) override {
    const Gpu& on = gpu(index_);
    const c10::cuda::CUDAGuard guard(on.index);
    try {
      return c10::cuda::CUDACachingAllocator::raw_alloc_with_stream(static_cast<size_t>(bytes), on.compute);
    } catch (const c10::OutOfMemoryError&) {
      return nullptr;
    }
  }
  void give_back(void* data, int64_t) override { c10::cuda::CUDACachingAllocator::raw_delete(data); }

  bool is_host() const override { return false; }
  std::shared_ptr<runtime::MemorySource> beside() override { return std::make_shared<PinnedMemory>(); }

  void to_host(void* host, const void* device, int64_t bytes) override {
    const Gpu& on = gpu(index_);
    const c10::cuda::CUDAGuard guard(on.index);
    down_.run(
        on, bytes, [](void*, int64_t, int64_t) {},
        [&](void* pinned, int64_t offset, int64_t piece) {
          copy(pinned, static_cast<const char*>(device) + offset, piece, cudaMemcpyDeviceToHost, on);
        },
        [&](const void* pinned, int64_t offset, int64_t piece) {
          std::memcpy(static_cast<char*>(host) + offset, pinned, static_cast<size_t>(piece));
        });
  }

  void to_device(void* device, const void* host, int64_t bytes) override {
    const Gpu& on = gpu(index_);
    const c10::cuda::CUDAGuard guard(on.index);
    up_.run(
        on, bytes,
        [&](void* pinned, int64_t offset, int64_t piece) {
          std::memcpy(pinned, static_cast<const char*>(host) + offset, static_cast<size_t>(piece));
        },
        [&](const void* pinned, int64_t offset, int64_t piece) {
          copy(static_cast<char*>(device) + offset, pinned, piece, cudaMemcpyHostToDevice, on);
        },
        [](const void*, int64_t, int64_t) {});
  }

 private:
  static void copy(void* to, const void* from, int64_t bytes, cudaMemcpyKind kind, const Gpu& on) {
    C10_CUDA_CHECK(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), kind, on.copies));
  }

  const int index_;
  Staging up_;
  Staging down_;
};

}  // namespace

std::shared_ptr<runtime::MemorySource> make_memory(int gpu) { return std::make_shared<GpuMemory>(gpu); }

}  // namespace moai::cuda
