#include "record/device.h"

#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <chrono>
#include <memory>

#include "engine/engine.h"
#include "record/device_ops.h"
#include "record/generator.h"
#include "record/recorder.h"

namespace moai::record {

namespace {

constexpr c10::DeviceType kType = c10::DeviceType::PrivateUse1;

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  void setCurrentDevice(c10::DeviceIndex index) const override { check(index); }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override {
    check(index);
    return 0;
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override { return default_generator(); }
  at::Generator getNewGenerator(c10::DeviceIndex index) const override {
    return at::make_generator<Generator>(index < 0 ? c10::DeviceIndex{0} : index);
  }
  at::Device getDeviceFromPtr(void*) const override { return {kType, 0}; }
  // Host memory needs no pinning for a device that is the CPU. Torch asks us in CUDA's place, too:
  // who pins for his GPU gets what he gets without moai.
  bool isPinnedPtr(const void* data) const override { return at::detail::getCUDAHooks().isPinnedPtr(data); }
  at::Allocator* getPinnedMemoryAllocator() const override {
    const auto& cuda = at::detail::getCUDAHooks();
    return cuda.hasCUDA() ? cuda.getPinnedMemoryAllocator() : c10::GetAllocator(c10::DeviceType::CPU);
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    auto& ours = *static_cast<Storage*>(storage.unsafeGetStorageImpl());
    if (bytes > storage.nbytes()) {
      grow(ours, static_cast<int64_t>(bytes));
    } else if (bytes < storage.nbytes()) {
      const Guard guard(lock());
      settle(ours, CutReason::kHostRead, "resize");
      ours.set_nbytes(bytes);
      if (bytes == 0) set_value(ours, intern_layout({0}, {1}, at::kByte), nullptr);
    }
  }

 private:
  static void check(c10::DeviceIndex index) {
    TORCH_CHECK(index <= 0, "moai is one device: there is no moai:", static_cast<int>(index));
  }
};

// What an event holds: when the worker came to it.
using Moment = std::shared_ptr<std::chrono::steady_clock::time_point>;

// One device and one stream: there is nothing to switch.
struct GuardImpl final : c10::impl::DeviceGuardImplInterface {
  static constexpr c10::DeviceType static_type = kType;
  c10::DeviceType type() const override { return kType; }
  c10::Device exchangeDevice(c10::Device) const override { return {kType, 0}; }
  c10::Device getDevice() const override { return {kType, 0}; }
  void setDevice(c10::Device device) const override {
    TORCH_CHECK(device.index() <= 0, "moai is one device: there is no ", device);
  }
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override {
    return c10::Stream(c10::Stream::DEFAULT, c10::Device(kType, 0));
  }
  c10::Stream getDefaultStream(c10::Device device) const override { return getStream(device); }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override { return getStream(device); }
  c10::Stream getNewStream(c10::Device device, int) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override {
    delete static_cast<Moment*>(event);
  }
  // An event that is to be timed ends the segment; what it times has run when the worker comes to it.
  void record(void** event, const c10::Stream&, const c10::DeviceIndex,
              const c10::EventFlag flag) const override {
    if (flag != c10::EventFlag::BACKEND_DEFAULT) return;
    if (*event == nullptr) *event = new Moment;
    auto& moment = *static_cast<Moment*>(*event);
    mark_step(CutReason::kSync);
    moment = std::make_shared<std::chrono::steady_clock::time_point>();
    auto run = std::make_shared<runtime::Run>();
    run->execute = [moment](runtime::Run&) { *moment = std::chrono::steady_clock::now(); };
    engine::engine().worker().submit(std::move(run));
  }
  double elapsedTime(void* from, void* to, const c10::DeviceIndex) const override {
    synchronize(CutReason::kSync);
    return std::chrono::duration<double, std::milli>(**static_cast<Moment*>(to) -
                                                     **static_cast<Moment*>(from))
        .count();
  }
  c10::DeviceCapability getDeviceCapability(c10::Device) const override {
    c10::DeviceCapability capability;  // all there are
    auto& types = capability.capability_data.supported_scalar_types;
    types.has_QInt8 = types.has_QUInt8 = types.has_QInt32 = types.has_QUInt4x2 = types.has_QUInt2x4 = 0;
    return capability;
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override { synchronize(CutReason::kSync); }
  void synchronizeEvent(void*) const override { synchronize(CutReason::kSync); }
  void synchronizeDevice(const c10::DeviceIndex) const override { synchronize(CutReason::kSync); }
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, GuardImpl)

}  // namespace

void register_device() {
  c10::register_privateuse1_backend("moai");
  register_storage();
  static Hooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);
}

}  // namespace moai::record
