#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/StorageImpl.h>

#include "record/layout.h"
#include "runtime/cell.h"

namespace moai::record {

// Refers to a value of an open segment: n >= 0 is the n-th value that its ops produced, and
// -1 - k the k-th outside value by first use.
using ValueRef = int32_t;
constexpr ValueRef kUndefined = INT32_MIN;  // memory that nobody has written yet
inline bool is_input(ValueRef ref) { return ref < 0 && ref != kUndefined; }
inline int32_t input_of(ValueRef ref) { return -1 - ref; }
inline ValueRef input_ref(size_t index) { return -1 - static_cast<int32_t>(index); }

struct Hint;

// The storage of a moai tensor. It has no memory: it names the value that it holds now.
//
// While `segment` is that of an open segment, the value is `ref` there; otherwise it is `cell`
// (null: never written). Its address is unique among live storages and faults when touched.
// All are guarded by the recorder's lock.
class Storage final : public c10::StorageImpl {
 public:
  Storage(const Layout* layout, int64_t bytes);
  ~Storage() override;

  uint64_t segment = 0;
  ValueRef ref = kUndefined;
  const Layout* layout;
  runtime::CellPtr cell;
  const Hint* hint = nullptr;  // where it would like to lie; of no meaning in another layout

  void release_resources() override;

 private:
  int address_class_ = 0;
  uintptr_t address_;
};

// The storage behind a moai tensor; must be one.
inline Storage& storage_of(const at::Tensor& tensor) {
  return *static_cast<Storage*>(tensor.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl());
}

// Is the tensor's storage one of ours? Torch itself may wrap one's address in a plain StorageImpl
// (`from_blob`, as pickling does).
bool has_own_storage(const c10::TensorImpl& impl);

// The same elements over the storage of ours whose address the tensor's plain storage wraps.
// Throws when there is none.
at::Tensor over_own_storage(const at::Tensor& tensor);

inline bool is_moai(const at::Tensor& tensor) { return tensor.defined() && tensor.is_privateuseone(); }

// A tensor over a new storage of that layout. The value is undefined.
at::Tensor new_tensor(const Layout* layout);

// A tensor over a new storage which holds `cell`.
at::Tensor new_tensor(const Layout* layout, runtime::CellPtr cell);

// Makes torch use these storages for the device, and gives it an allocator that hands out
// addresses only. Called once, at import.
void register_storage();

}  // namespace moai::record
