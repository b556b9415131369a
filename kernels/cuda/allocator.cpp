#include "kernels/cuda/allocator.h"

#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>

#include <mutex>
#include <utility>

namespace moai::cuda {

namespace {

namespace torch_cuda = c10::cuda::CUDACachingAllocator;
using c10::DeviceIndex;
using c10::MempoolId_t;
using torch_cuda::CUDAAllocator;

const aten::CudaHost* the_host = nullptr;
CUDAAllocator* real = nullptr;

void give_back(void* data) {
  if (!the_host->return_place(data)) real->raw_delete(data);
}

// Answers requests for results by their places; everything else is the real allocator's.
class PlacingAllocator final : public CUDAAllocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    void* place = the_host->claim_place(c10::DeviceType::CUDA, bytes);
    if (place == nullptr) return real->allocate(bytes);
    return {place, place, &give_back, c10::Device(c10::DeviceType::CUDA, c10::cuda::current_device())};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }
  void raw_delete(void* data) override { give_back(data); }

  void copy_data(void* to, const void* from, size_t bytes) const override {
    real->copy_data(to, from, bytes);
  }
  bool is_simple_data_ptr(const c10::DataPtr& data) const override { return real->is_simple_data_ptr(data); }
  bool initialized() override { return real->initialized(); }
  void emptyCache(MempoolId_t pool) override { real->emptyCache(pool); }
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(DeviceIndex device) override {
    return real->getDeviceStats(device);
  }
  void resetAccumulatedStats(DeviceIndex device) override { real->resetAccumulatedStats(device); }
  void resetPeakStats(DeviceIndex device) override { real->resetPeakStats(device); }
  void* raw_alloc(size_t bytes) override { return real->raw_alloc(bytes); }
  void* raw_alloc_with_stream(size_t bytes, cudaStream_t stream) override {
    return real->raw_alloc_with_stream(bytes, stream);
  }
  void init(int devices) override { real->init(devices); }
  double getMemoryFraction(DeviceIndex device) override { return real->getMemoryFraction(device); }
  void setMemoryFraction(double fraction, DeviceIndex device) override {
    real->setMemoryFraction(fraction, device);
  }
  std::vector<torch_cuda::StreamSegmentSize> getExpandableSegmentSizes(DeviceIndex device) override {
    return real->getExpandableSegmentSizes(device);
  }
  void enable(bool value) override { real->enable(value); }
  bool isEnabled() const override { return real->isEnabled(); }
  void cacheInfo(DeviceIndex device, size_t* largest) override { real->cacheInfo(device, largest); }
  void* getBaseAllocation(void* data, size_t* size) override { return real->getBaseAllocation(data, size); }
  using CUDAAllocator::recordStream;
  void recordStream(const c10::DataPtr& data, c10::cuda::CUDAStream stream) override {
    real->recordStream(data, stream);
  }
  torch_cuda::SnapshotInfo snapshot(MempoolId_t pool, bool include_traces) override {
    return real->snapshot(pool, include_traces);
  }
  void beginAllocateToPool(DeviceIndex device, MempoolId_t pool,
                           std::function<bool(cudaStream_t)> filter) override {
    real->beginAllocateToPool(device, pool, std::move(filter));
  }
  void endAllocateToPool(DeviceIndex device, MempoolId_t pool) override {
    real->endAllocateToPool(device, pool);
  }
  void releasePool(DeviceIndex device, MempoolId_t pool) override { real->releasePool(device, pool); }
  int getPoolUseCount(DeviceIndex device, MempoolId_t pool) override {
    return real->getPoolUseCount(device, pool);
  }
  void createOrIncrefPool(DeviceIndex device, MempoolId_t pool,
                          std::shared_ptr<CUDAAllocator> allocator) override {
    real->createOrIncrefPool(device, pool, std::move(allocator));
  }
  void setUseOnOOM(DeviceIndex device, MempoolId_t pool, bool use) override {
    real->setUseOnOOM(device, pool, use);
  }
  void setNoSplit(DeviceIndex device, MempoolId_t pool) override { real->setNoSplit(device, pool); }
  bool checkPoolLiveAllocations(DeviceIndex device, MempoolId_t pool,
                                const std::unordered_set<void*>& expected) override {
    return real->checkPoolLiveAllocations(device, pool, expected);
  }
  torch_cuda::ShareableHandle shareIpcHandle(void* data) override { return real->shareIpcHandle(data); }
  std::shared_ptr<void> getIpcDevPtr(std::string handle) override {
    return real->getIpcDevPtr(std::move(handle));
  }
  bool isHistoryEnabled() override { return real->isHistoryEnabled(); }
  void recordHistory(bool enabled, torch_cuda::CreateContextFn context, size_t most,
                     torch_cuda::RecordContext when, bool clear,
                     const std::vector<std::string>& skipped) override {
    real->recordHistory(enabled, context, most, when, clear, skipped);
  }
  void recordAnnotation(const std::vector<std::pair<std::string, std::string>>& metadata) override {
    real->recordAnnotation(metadata);
  }
  void pushCompileContext(std::string& metadata) override { real->pushCompileContext(metadata); }
  void popCompileContext() override { real->popCompileContext(); }
  void setUserMetadata(const std::string& metadata) override { real->setUserMetadata(metadata); }
  std::string getUserMetadata() override { return real->getUserMetadata(); }
  void attachOutOfMemoryObserver(torch_cuda::OutOfMemoryObserver observer) override {
    real->attachOutOfMemoryObserver(std::move(observer));
  }
  void attachAllocatorTraceTracker(torch_cuda::AllocatorTraceTracker tracker) override {
    real->attachAllocatorTraceTracker(std::move(tracker));
  }
  void enablePeerAccess(DeviceIndex device, DeviceIndex other) override {
    real->enablePeerAccess(device, other);
  }
  cudaError_t memcpyAsync(void* to, int to_device, const void* from, int from_device, size_t bytes,
                          cudaStream_t stream, bool is_peer) override {
    return real->memcpyAsync(to, to_device, from, from_device, bytes, stream, is_peer);
  }
  std::shared_ptr<torch_cuda::AllocatorState> getCheckpointState(DeviceIndex device,
                                                                 MempoolId_t pool) override {
    return real->getCheckpointState(device, pool);
  }
  torch_cuda::CheckpointDelta setCheckpointPoolState(
      DeviceIndex device, std::shared_ptr<torch_cuda::AllocatorState> state) override {
    return real->setCheckpointPoolState(device, std::move(state));
  }
  // Torch tells by its name which allocator is at work: still its own.
  std::string name() override { return real->name(); }
  std::pair<size_t, size_t> getMemoryInfo(DeviceIndex device) override { return real->getMemoryInfo(device); }
};

}  // namespace

void install_placing_allocator(const aten::CudaHost& host) {
  static std::once_flag once;
  std::call_once(once, [&] {
    the_host = &host;
    real = torch_cuda::get();
    auto* placing = new PlacingAllocator;  // leaked: tensors outlive static destruction
    torch_cuda::allocator.store(placing);
    c10::SetAllocator(c10::DeviceType::CUDA, placing, 255);
  });
}

}  // namespace moai::cuda
