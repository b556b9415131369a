#include "record/storage.h"

#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/TensorImpl.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <vector>

#include "engine/engine.h"

namespace moai::record {

namespace {

// Note [Addresses]
// Tensors need addresses that differ (transformers ties tensors whose data pointers are equal),
// that fault when touched and that do not run out: a step of a large model holds more bytes than
// a process can address. Addresses with bits 47 to 62 set and bit 63 clear are non-canonical: no
// page can ever be mapped there. Each power-of-two size has a range of its own, found by its top
// byte, in which a freed slot is used again.
class Addresses {
 public:
  uintptr_t take(int64_t bytes, int* size_class, Storage* owner) {
    int c = 6;
    while (c < 48 && (int64_t{1} << c) < bytes) ++c;
    *size_class = c;
    auto& slot_range = ranges_[c];
    uint64_t index = 0;
    {
      const std::lock_guard<SpinLock> guard(slot_range.lock);
      if (slot_range.freed.empty()) {
        index = slot_range.next++;
      } else {
        index = slot_range.freed.back();
        slot_range.freed.pop_back();
      }
      if (slot_range.owners.size() <= index) slot_range.owners.resize(index + 1);
      slot_range.owners[index] = owner;
    }
    return (static_cast<uintptr_t>(c + 1) << 56) | (static_cast<uintptr_t>(1) << 55) | (index << c);
  }

  void give_back(uintptr_t address, int size_class) {
    auto& slot_range = ranges_[size_class];
    const uint64_t index = (address & ((uintptr_t{1} << 55) - 1)) >> size_class;
    const std::lock_guard<SpinLock> guard(slot_range.lock);
    slot_range.owners[index] = nullptr;
    slot_range.freed.push_back(index);
  }

  // The storage that an address lies in, and how far; null when there is none.
  Storage* find(uintptr_t address, int64_t* offset) {
    const int c = static_cast<int>(address >> 56) - 1;
    if (c < 6 || c > 48) return nullptr;
    const uintptr_t in_range = address & ((uintptr_t{1} << 55) - 1);
    *offset = static_cast<int64_t>(in_range & ((uintptr_t{1} << c) - 1));
    auto& slot_range = ranges_[c];
    const std::lock_guard<SpinLock> guard(slot_range.lock);
    const uint64_t index = in_range >> c;
    return index < slot_range.owners.size() ? slot_range.owners[index] : nullptr;
  }

 private:
  struct SpinLock {
    std::atomic_flag flag = ATOMIC_FLAG_INIT;
    void lock() {
      while (flag.test_and_set(std::memory_order_acquire)) {
      }
    }
    void unlock() { flag.clear(std::memory_order_release); }
  };
  struct Range {
    SpinLock lock;
    uint64_t next = 0;
    std::vector<uint64_t> freed;
    std::vector<Storage*> owners;  // by index
  };
  Range ranges_[49];
};

Addresses& addresses() {
  static auto* all = new Addresses;  // storages are freed after static destruction
  return *all;
}

c10::Device device() { return {c10::DeviceType::PrivateUse1, 0}; }

// Never hands out memory: a storage of ours is made by create_storage. Its statistics are the engine's
// memory, zero before the first launch.
struct AddressAllocator final : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t bytes) override {
    // An owner for callers that want a DataPtr and no storage; they can only look at the address.
    struct Slot {
      uintptr_t address;
      int size_class;
    };
    auto* slot = new Slot;
    slot->address = addresses().take(static_cast<int64_t>(bytes), &slot->size_class, nullptr);
    return {reinterpret_cast<void*>(slot->address), slot,
            [](void* context) {
              auto* owned = static_cast<Slot*>(context);
              addresses().give_back(owned->address, owned->size_class);
              delete owned;
            },
            device()};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void*, const void*, size_t) const override {
    TORCH_CHECK(false, "moai tensors have no host memory; copy through tensor.copy_()");
  }

  bool initialized() override { return true; }
  void recordStream(const c10::DataPtr&, c10::Stream) override {}
  void emptyCache(c10::MempoolId_t) override {
    if (engine::engine_exists()) engine::engine().trim_memory();
  }
  void resetAccumulatedStats(c10::DeviceIndex) override {}  // none are accumulated
  void resetPeakStats(c10::DeviceIndex) override {
    if (engine::engine_exists()) engine::engine().reset_peak_memory();
    peak_reserved_.store(0);
  }
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex) override {
    const runtime::MemoryStats memory =
        engine::engine_exists() ? engine::engine().memory_stats() : runtime::MemoryStats{};
    peak_reserved_.store(std::max(peak_reserved_.load(), memory.reserved_bytes));
    c10::CachingDeviceAllocator::DeviceStats stats;
    const auto set = [](auto& in_pools, int64_t current, int64_t peak) {
      auto& all = in_pools[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
      all.current = current;
      all.peak = peak;
    };
    set(stats.allocated_bytes, memory.live_bytes, memory.peak_bytes);
    set(stats.active_bytes, memory.live_bytes, memory.peak_bytes);
    set(stats.requested_bytes, memory.live_bytes, memory.peak_bytes);
    set(stats.reserved_bytes, memory.reserved_bytes, peak_reserved_.load());
    return stats;
  }

 private:
  std::atomic<int64_t> peak_reserved_{0};  // as seen by those who asked
};

AddressAllocator& allocator() {
  static auto* one = new AddressAllocator;
  return *one;
}

c10::intrusive_ptr<c10::StorageImpl> create_storage(c10::StorageImpl::use_byte_size_t, c10::SymInt size_bytes,
                                                    c10::DataPtr, c10::Allocator*, bool) {
  const int64_t bytes = size_bytes.expect_int();
  const Layout* layout = intern_layout({bytes}, {1}, at::kByte);
  return c10::make_intrusive<Storage>(layout, bytes);
}

}  // namespace

Storage::Storage(const Layout* layout_in, int64_t bytes)
    : c10::StorageImpl(use_byte_size_t(), bytes, c10::DataPtr(nullptr, record::device()),
                       &record::allocator(), /*resizable=*/true),
      layout(layout_in),
      address_(addresses().take(bytes, &address_class_, this)) {
  set_data_ptr_noswap(c10::DataPtr(reinterpret_cast<void*>(address_), record::device()));
}

Storage::~Storage() { addresses().give_back(address_, address_class_); }

void Storage::release_resources() {
  cell.reset();
  c10::StorageImpl::release_resources();
}

at::Tensor new_tensor(const Layout* layout) {
  auto storage = c10::Storage(c10::make_intrusive<Storage>(layout, layout->bytes));
  auto impl = c10::make_intrusive<c10::TensorImpl>(std::move(storage),
                                                   c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                                   c10::scalarTypeToTypeMeta(to_aten(layout->type.dtype)));
  impl->set_sizes_and_strides(layout->type.sizes, layout->type.strides);
  return at::Tensor(std::move(impl));
}

at::Tensor new_tensor(const Layout* layout, runtime::CellPtr cell) {
  at::Tensor tensor = new_tensor(layout);
  storage_of(tensor).cell = std::move(cell);
  return tensor;
}

bool has_own_storage(const c10::TensorImpl& impl) {
  return impl.unsafe_storage().unsafeGetStorageImpl()->allocator() == &record::allocator();
}

at::Tensor over_own_storage(const at::Tensor& tensor) {
  int64_t offset = 0;
  auto* address = tensor.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl()->data();
  Storage* owner = addresses().find(reinterpret_cast<uintptr_t>(address), &offset);
  TORCH_CHECK(owner != nullptr, "a moai tensor was made over memory that moai does not hold (", address,
              "); make it with torch.empty(device=\"moai\") and copy");
  auto impl = c10::make_intrusive<c10::TensorImpl>(
      c10::Storage(c10::intrusive_ptr<c10::StorageImpl>::reclaim_copy(owner)),
      c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), tensor.dtype());
  const auto item = static_cast<int64_t>(tensor.itemsize());
  impl->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset() + offset / item);
  return at::Tensor(std::move(impl));
}

void register_storage() {
  c10::SetAllocator(c10::DeviceType::PrivateUse1, &allocator());
  c10::SetStorageImplCreate(c10::DeviceType::PrivateUse1, &create_storage);
}

}  // namespace moai::record
