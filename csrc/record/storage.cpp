#include "record/storage.h"

#include <c10/core/Allocator.h>
#include <c10/core/TensorImpl.h>

#include <atomic>
#include <mutex>
#include <vector>

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
  uintptr_t take(int64_t bytes, int* size_class) {
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
    }
    return (static_cast<uintptr_t>(c + 1) << 56) | (static_cast<uintptr_t>(1) << 55) | (index << c);
  }

  void give_back(uintptr_t address, int size_class) {
    auto& slot_range = ranges_[size_class];
    const uint64_t index = (address & ((uintptr_t{1} << 55) - 1)) >> size_class;
    const std::lock_guard<SpinLock> guard(slot_range.lock);
    slot_range.freed.push_back(index);
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
  };
  Range ranges_[49];
};

Addresses& addresses() {
  static auto* all = new Addresses;  // storages are freed after static destruction
  return *all;
}

c10::Device device() { return {c10::DeviceType::PrivateUse1, 0}; }

// Never hands out memory: a storage of ours is made by create_storage.
struct AddressAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    // An owner for callers that want a DataPtr and no storage; they can only look at the address.
    struct Slot {
      uintptr_t address;
      int size_class;
    };
    auto* slot = new Slot;
    slot->address = addresses().take(static_cast<int64_t>(bytes), &slot->size_class);
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
      address_(addresses().take(bytes, &address_class_)) {
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

void register_storage() {
  c10::SetAllocator(c10::DeviceType::PrivateUse1, &allocator());
  c10::SetStorageImplCreate(c10::DeviceType::PrivateUse1, &create_storage);
}

}  // namespace moai::record
