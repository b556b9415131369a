// Kernels that are more than a node: allocation, copies between devices, views, storages.

#include "record/device_ops.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/native/DispatchStub.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/ops/_fused_sdp_choice_native.h>
#include <ATen/ops/_has_same_storage_numel_native.h>
#include <ATen/ops/_local_scalar_dense.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/_to_copy.h>
#include <ATen/ops/_to_copy_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/is_same_size_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <ATen/ops/zeros.h>
#include <c10/core/MemoryFormat.h>
#include <torch/library.h>

#include <cstring>

#include "engine/engine.h"
#include "engine/stats.h"
#include "record/flight.h"
#include "record/recorder.h"

// Note [Attention]
// Attention is one op: the CPU's own fused one where its conditions hold, torch's composite of our
// ops elsewhere (dropout draws our random numbers, a mask that wants a gradient).
namespace at::native {
REGISTER_PRIVATEUSE1_DISPATCH(_fused_sdp_choice_stub, &_fused_sdp_choice_cpp)
}

namespace moai::record {

namespace {

using runtime::Cell;
using torch::jit::Stack;

template <typename... Args>
at::Tensor recorded(const OpSchema& op, Args&&... args) {
  Stack stack;
  torch::jit::push(stack, std::forward<Args>(args)...);
  Recorder::current().call(op, stack);
  return stack.back().toTensor();
}

void check_options(std::optional<at::Layout> layout, std::optional<at::Device> device,
                   std::optional<bool> pin_memory) {
  TORCH_CHECK(!device.has_value() || device->index() <= 0, "moai is one device: there is no ", *device);
  TORCH_CHECK_NOT_IMPLEMENTED(!layout.has_value() || *layout == at::kStrided,
                              "moai holds strided tensors only, not ", *layout,
                              "; make the tensor on the CPU");
  TORCH_CHECK(!pin_memory.value_or(false), "Only dense CPU tensors can be pinned");
}

at::Tensor empty_strided(at::IntArrayRef sizes, at::IntArrayRef strides, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout> layout, std::optional<at::Device> device,
                         std::optional<bool> pin_memory) {
  check_options(layout, device, pin_memory);
  register_new_ops();
  for (const int64_t size : sizes)
    TORCH_CHECK(size >= 0, "Trying to create tensor with negative dimension ", size, ": ", sizes);
  return new_tensor(intern_layout(sizes, strides, dtype.value_or(c10::get_default_dtype_as_scalartype())));
}

at::Tensor empty(at::IntArrayRef sizes, std::optional<at::ScalarType> dtype, std::optional<at::Layout> layout,
                 std::optional<at::Device> device, std::optional<bool> pin_memory,
                 std::optional<at::MemoryFormat> format) {
  const auto wanted = format.value_or(at::MemoryFormat::Contiguous);
  std::vector<int64_t> strides(sizes.size(), 0);
  if (wanted == at::MemoryFormat::ChannelsLast) {
    const auto s = c10::get_channels_last_strides_2d(sizes);
    strides.assign(s.begin(), s.end());
  } else if (wanted == at::MemoryFormat::ChannelsLast3d) {
    const auto s = c10::get_channels_last_strides_3d(sizes);
    strides.assign(s.begin(), s.end());
  } else {
    TORCH_CHECK(wanted == at::MemoryFormat::Contiguous, "unsupported memory format option ", wanted);
    int64_t stride = 1;
    for (size_t i = sizes.size(); i-- > 0;) {
      strides[i] = stride;
      stride *= std::max<int64_t>(sizes[i], 1);
    }
  }
  return empty_strided(sizes, strides, dtype, layout, device, pin_memory);
}

// Host to device: the value is what the host's memory holds now, and no op of the trace.
void copy_from_host(const at::Tensor& self, const at::Tensor& source) {
  Storage& storage = storage_of(self);
  const bool whole = !self.is_conj() && !self.is_neg() && self.storage_offset() == 0 &&
                     self.is_non_overlapping_and_dense() &&
                     static_cast<int64_t>(self.nbytes()) == static_cast<int64_t>(storage.nbytes()) &&
                     source.sizes() == self.sizes();
  if (!whole) {
    const OpSchema& op = schema_of("aten::copy_", "");
    recorded(op, self, snapshot(source), false);
    return;
  }
  const Layout* layout = layout_of(self);
  auto block = allocate(layout->bytes);
  if (layout->bytes > 0) {
    const at::Tensor target = at::from_blob(block->data, self.sizes(), self.strides(),
                                            at::TensorOptions(at::kCPU).dtype(self.scalar_type()));
    target.copy_(source);
  }
  engine::stats().bytes_to_device.fetch_add(layout->bytes, std::memory_order_relaxed);
  const Guard guard(lock());
  set_value(storage, layout, Cell::ready(std::move(block), layout->bytes));
}

at::Tensor& copy_(at::Tensor& self, const at::Tensor& source, bool non_blocking) {
  if (is_bytes_only(self.scalar_type()) && self.scalar_type() == source.scalar_type() &&
      self.device() != source.device()) {
    self.view(at::kByte).copy_(source.view(at::kByte), non_blocking);
    return self;
  }
  if (is_moai(self) && !has_own_storage(*self.unsafeGetTensorImpl())) {
    over_own_storage(self).copy_(source, non_blocking);
    return self;
  }
  if (!is_moai(self)) {
    self.copy_(to_cpu(source, Read::kShare, "copy to " + self.device().str()), non_blocking);
  } else if (!is_moai(source)) {
    const at::Tensor here = source.device().is_cpu() ? source : source.cpu();
    TORCH_CHECK(here.layout() == at::kStrided, "copy_() from ", here.layout(),
                " to a moai tensor: call to_dense() first");
    copy_from_host(self, here);
  } else {
    static const OpSchema& op = schema_of("aten::copy_", "");
    recorded(op, self, source, non_blocking);
  }
  return self;
}

at::Tensor to_copy(const at::Tensor& self, std::optional<at::ScalarType> dtype,
                   std::optional<at::Layout> layout, std::optional<at::Device> device,
                   std::optional<bool> pin_memory, bool non_blocking,
                   std::optional<at::MemoryFormat> format) {
  // Dispatched by the target's device as well as by the tensor's.
  if (!is_moai(self))
    return at::native::_to_copy(self, dtype, layout, device, pin_memory, non_blocking, format);
  if (device.has_value() && !device->is_privateuseone()) {
    if (is_bytes_only(self.scalar_type()) && dtype.value_or(self.scalar_type()) == self.scalar_type()) {
      return at::_to_copy(self.view(at::kByte), at::kByte, layout, device, pin_memory, non_blocking, format)
          .view(self.scalar_type());
    }
    return at::_to_copy(to_cpu(self, Read::kShare, "to(" + device->str() + ")"), dtype, layout, device,
                        pin_memory, non_blocking, format);
  }
  check_options(layout, device, pin_memory);
  static const OpSchema& op = schema_of("aten::_to_copy", "");
  return recorded(op, self, dtype, std::optional<at::Layout>(), std::optional<at::Device>(),
                  std::optional<bool>(), non_blocking, format);
}

// Torch's zero tensors have no storage; ours are plain zeros, which cost nothing until they are used.
at::Tensor efficient_zero_tensor(at::IntArrayRef sizes, std::optional<at::ScalarType> dtype,
                                 std::optional<at::Layout> layout, std::optional<at::Device> device,
                                 std::optional<bool> pin_memory) {
  return at::zeros(sizes, dtype, layout, device, pin_memory);
}

at::Scalar local_scalar_dense(const at::Tensor& self) {
  return at::_local_scalar_dense(to_cpu(self, Read::kShare, "item"));
}

at::Tensor view_dtype(const at::Tensor& self, at::ScalarType dtype) {
  check_type(dtype);
  return at::native::view_dtype(self, dtype);
}

const at::Tensor& resize_(const at::Tensor& self, at::IntArrayRef size,
                          std::optional<at::MemoryFormat> format) {
  const auto wanted = format.value_or(at::MemoryFormat::Contiguous);
  auto* impl = self.unsafeGetTensorImpl();
  if (self.sizes() != size) impl->set_sizes_contiguous(size);
  if (wanted != at::MemoryFormat::Preserve && wanted != at::MemoryFormat::Contiguous)
    impl->empty_tensor_restride(wanted);
  const ir::Type type{to_ir(self.scalar_type()), self.sizes().vec(), self.strides().vec()};
  grow(storage_of(self), type.bytes() + self.storage_offset() * static_cast<int64_t>(self.itemsize()));
  return self;
}

at::Tensor& set_storage(at::Tensor& self, at::Storage source, int64_t offset, at::IntArrayRef sizes,
                        at::IntArrayRef strides) {
  TORCH_CHECK(source.device_type() == at::kPrivateUse1,
              "Attempted to set the storage of a tensor on device \"", self.device(),
              "\" to a storage on different device \"", source.device(), "\"");
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  impl->set_storage_offset(offset);
  if (strides.data() == nullptr) {
    impl->set_sizes_contiguous(sizes);
  } else {
    impl->set_sizes_and_strides(sizes, strides);
  }
  const ir::Type type{to_ir(self.scalar_type()), self.sizes().vec(), self.strides().vec()};
  grow(storage_of(self), type.bytes() + offset * static_cast<int64_t>(self.itemsize()));
  return self;
}

at::Tensor& set_source_storage(at::Tensor& self, at::Storage source) {
  const auto size = static_cast<int64_t>(source.nbytes() / self.itemsize());
  return set_storage(self, std::move(source), 0, {size}, {});
}

at::Tensor& set_source_tensor(at::Tensor& self, const at::Tensor& source) {
  return set_storage(self, source.storage(), source.storage_offset(), source.sizes(), source.strides());
}

at::Tensor& set_nothing(at::Tensor& self) {
  return set_storage(self, new_tensor(intern_layout({0}, {1}, self.scalar_type())).storage(), 0, {0}, {});
}

// Integers are counted, as on CUDA: models ask for it on any device that is not the CPU.
at::Tensor histc(const at::Tensor& self, int64_t bins, const at::Scalar& min, const at::Scalar& max) {
  static const OpSchema& op = schema_of("aten::histc", "");
  if (!at::isIntegralType(self.scalar_type(), /*includeBool=*/false))
    return recorded(op, self, bins, min, max);
  return recorded(op, self.to(at::kDouble), bins, min, max).to(self.scalar_type());
}

// What indices are divided by says what they point to: a number that is structure, so that the planner can
// tell tokens from the rows that they became (plan/route_rows.h). A divisor that changes is another graph.
at::Tensor floor_divide(const at::Tensor& self, const at::Tensor& other) {
  static const OpSchema& tensor = schema_of("aten::floor_divide", "");
  static const OpSchema& scalar = schema_of("aten::floor_divide", "Scalar");
  const bool divides_indices = other.unsafeGetTensorImpl()->is_wrapped_number() && other.device().is_cpu() &&
                               at::isIntegralType(other.scalar_type(), /*includeBool=*/false) &&
                               at::isIntegralType(self.scalar_type(), /*includeBool=*/false);
  return divides_indices && is_moai(self) ? recorded(scalar, self, other.item())
                                          : recorded(tensor, self, other);
}

bool is_set_to(const at::Tensor& self, const at::Tensor& tensor) {
  return self.storage().unsafeGetStorageImpl() == tensor.storage().unsafeGetStorageImpl() &&
         self.storage_offset() == tensor.storage_offset() && self.sizes() == tensor.sizes() &&
         self.strides() == tensor.strides();
}

// There is one stream, and memory in use has an owner.
void record_stream(at::Tensor&, at::Stream) {}

// `module.to("moai")` keeps its Parameters: their data may become ours, and the CPU's again.
bool has_compatible_shallow_copy_type(const at::Tensor& self, const at::Tensor& from) {
  const auto ours = [](const at::Tensor& t) {
    return (t.is_cpu() || is_moai(t)) && t.layout() == at::kStrided;
  };
  return ours(self) && ours(from);
}

void not_strided(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack*) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      false, "moai holds strided tensors only, and ", op.operator_name(),
      " was called for a sparse, nested or quantized one; call to_dense() (or dequantize(), or "
      "to_padded_tensor()) first, or keep it on the CPU");
}

void sparse_gradient(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack*) {
  TORCH_CHECK_NOT_IMPLEMENTED(false, "moai holds strided tensors only, and ", op.operator_name(),
                              " returns a sparse gradient; make the embedding with sparse=False");
}

torch::CppFunction not_strided_boxed() { return torch::CppFunction::makeFromBoxedFunction<&not_strided>(); }

}  // namespace

void grow(Storage& storage, int64_t bytes) {
  if (static_cast<int64_t>(storage.nbytes()) >= bytes) return;
  runtime::CellPtr old;
  {
    const Guard guard(lock());
    old = settle(storage, CutReason::kHostRead, "resize");
  }
  runtime::CellPtr grown;
  if (old != nullptr) {
    wait(old);
    auto block = allocate(bytes);
    if (old->bytes > 0)
      std::memcpy(block->data, engine::engine().whole(old)->data,
                  static_cast<size_t>(std::min(old->bytes, bytes)));
    grown = Cell::ready(std::move(block), bytes);
  }
  const Guard guard(lock());
  storage.set_nbytes(static_cast<size_t>(bytes));
  set_value(storage, intern_layout({bytes}, {1}, at::kByte), std::move(grown));
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("copy_", copy_);
  m.impl("_to_copy", to_copy);
  m.impl("_local_scalar_dense", local_scalar_dense);
  m.impl("view", TORCH_FN(at::native::view));
  m.impl("_unsafe_view", TORCH_FN(at::native::view));  // unsafe for autograd alone: no copy either
  m.impl("_efficientzerotensor", efficient_zero_tensor);
  m.impl("view.dtype", view_dtype);
  m.impl("as_strided", TORCH_FN(at::native::as_strided_tensorimpl));
  m.impl("_reshape_alias", TORCH_FN(at::native::_reshape_alias));
  m.impl("unfold", TORCH_FN(at::native::unfold));
  m.impl("view_as_real", TORCH_FN(at::native::view_as_real));
  m.impl("view_as_complex", TORCH_FN(at::native::view_as_complex));
  m.impl("resize_", resize_);
  m.impl("set_", set_nothing);
  m.impl("set_.source_Storage", set_source_storage);
  m.impl("set_.source_Storage_storage_offset", set_storage);
  m.impl("set_.source_Tensor", set_source_tensor);
  m.impl("histc", histc);
  m.impl("floor_divide", floor_divide);
  m.impl("is_set_to", is_set_to);
  m.impl("is_same_size", TORCH_FN(at::native::is_same_size));
  m.impl("_has_same_storage_numel", TORCH_FN(at::native::_has_same_storage_numel));
  m.impl("record_stream", record_stream);
  m.impl("_has_compatible_shallow_copy_type", has_compatible_shallow_copy_type);
  // See Note [Attention].
  m.impl("_fused_sdp_choice", TORCH_FN(at::native::_fused_sdp_choice_cpp));
}

// What is not strided is refused, whatever is asked of it.
TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("embedding_sparse_backward", torch::CppFunction::makeFromBoxedFunction<&sparse_gradient>());
}
TORCH_LIBRARY_IMPL(aten, SparsePrivateUse1, m) { m.impl("_to_copy", not_strided_boxed()); }
TORCH_LIBRARY_IMPL(aten, SparseCsrPrivateUse1, m) { m.impl("_to_copy", not_strided_boxed()); }
TORCH_LIBRARY_IMPL(aten, NestedTensorPrivateUse1, m) { m.impl("_to_copy", not_strided_boxed()); }
TORCH_LIBRARY_IMPL(aten, QuantizedPrivateUse1, m) { m.impl("_to_copy", not_strided_boxed()); }
TORCH_LIBRARY_IMPL(_, SparsePrivateUse1, m) { m.fallback(not_strided_boxed()); }
TORCH_LIBRARY_IMPL(_, SparseCsrPrivateUse1, m) { m.fallback(not_strided_boxed()); }
TORCH_LIBRARY_IMPL(_, NestedTensorPrivateUse1, m) { m.fallback(not_strided_boxed()); }
TORCH_LIBRARY_IMPL(_, QuantizedPrivateUse1, m) { m.fallback(not_strided_boxed()); }

TORCH_LIBRARY_IMPL(aten, AutogradPrivateUse1, m) {
  m.impl("_has_compatible_shallow_copy_type", has_compatible_shallow_copy_type);
}

}  // namespace moai::record
