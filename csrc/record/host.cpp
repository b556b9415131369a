// What crosses between the host and the device: snapshots, reads, and ops that must run at once.

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/_conj.h>
#include <ATen/ops/_neg_view.h>
#include <ATen/ops/conj_physical.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/neg.h>

#include <cstring>

#include "engine/engine.h"
#include "engine/log.h"
#include "engine/stats.h"
#include "ir/error.h"
#include "record/encode.h"
#include "record/flight.h"
#include "record/recorder.h"
#include "record/source_line.h"

namespace moai::record {

namespace {

using runtime::Cell;
using runtime::CellPtr;
using torch::jit::Stack;

at::TensorOptions cpu_options(at::ScalarType dtype) { return at::TensorOptions(at::kCPU).dtype(dtype); }

// A CPU view of the block's memory which keeps the block alive.
at::Tensor over_block(const runtime::BlockPtr& block, at::IntArrayRef sizes, at::IntArrayRef strides,
                      int64_t offset, at::ScalarType dtype) {
  if (block == nullptr || block->data == nullptr)
    return at::empty_strided(sizes, strides, cpu_options(dtype));
  auto* data = static_cast<char*>(block->data) + offset * static_cast<int64_t>(c10::elementSize(dtype));
  return at::from_blob(data, sizes, strides, [block](void*) {}, cpu_options(dtype));
}

// The memory of a tensor's storage, with every value in it there. A storage that nobody wrote gets
// memory of undefined content. On devices that are apart it is what their parts make together, which
// (`to_write`) becomes where the value lies; only to be looked at, it is brought together where the tensor
// is.
enum class Touch { kLook, kRead, kWrite };
runtime::BlockPtr fetch(const at::Tensor& tensor, CutReason reason, const std::string& why, Touch touch) {
  Storage& storage = storage_of(tensor);
  CellPtr cell;
  {
    const Guard guard(lock());
    cell = settle(storage, reason, why);
  }
  if (cell == nullptr) {
    const auto bytes = static_cast<int64_t>(storage.nbytes());
    auto fresh = Cell::ready(allocate(bytes), bytes);
    const Guard guard(lock());
    cell = settle(storage, reason, why);  // another thread may have written meanwhile
    if (cell == nullptr) set_value(storage, storage.layout, cell = std::move(fresh));
  }
  wait(cell);
  const auto shown = runtime::Region::of(tensor.sizes().vec(), tensor.strides().vec(),
                                         tensor.storage_offset(), static_cast<int64_t>(tensor.itemsize()));
  runtime::BlockPtr block = engine::engine().whole(cell, touch == Touch::kLook ? &shown : nullptr);
  if (block == nullptr && cell->bytes > 0) {
    throw Error(Phase::kRun, "this tensor was recorded in a dry run and has no value")
        .hint("leave moai.dry_run() and compute it again");
  }
  if (touch == Touch::kWrite && engine::engine().is_apart()) {
    const Guard guard(lock());
    if (storage.cell == cell && !cell->parts.empty())
      set_value(storage, storage.layout, Cell::ready(block, cell->bytes));
  }
  return block;
}

at::Tensor cpu_view(const at::Tensor& tensor, CutReason reason, const std::string& why, Touch touch) {
  if (!has_own_storage(*tensor.unsafeGetTensorImpl()))
    return cpu_view(over_own_storage(tensor), reason, why, touch);
  const at::Tensor view = over_block(fetch(tensor, reason, why, touch), tensor.sizes(), tensor.strides(),
                                     tensor.storage_offset(), tensor.scalar_type());
  if (tensor.is_conj()) view._set_conj(true);
  if (tensor.is_neg()) view._set_neg(true);
  return view;
}

template <typename Each>
void map_in_place(const OpSchema& op, Stack& stack, const Each& each) {
  const size_t n = op.args.size();
  for (size_t i = 0; i < n; ++i) {
    at::IValue& value = torch::jit::peek(stack, i, n);
    if (op.args[i] == ArgKind::kTensor && value.isTensor()) {
      value = each(value.toTensor(), op.written[i]);
    } else if (op.args[i] == ArgKind::kTensorList && value.isList()) {
      const auto list = value.toListRef();
      if (value.isTensorList()) {
        c10::List<at::Tensor> mapped;
        for (const auto& element : list) mapped.push_back(each(element.toTensor(), op.written[i]));
        value = mapped;
      } else {
        c10::List<std::optional<at::Tensor>> mapped;
        for (const auto& element : list) {
          if (element.isNone()) {
            mapped.push_back(std::nullopt);
          } else {
            mapped.push_back(each(element.toTensor(), op.written[i]));
          }
        }
        value = mapped;
      }
    }
  }
}

bool is_plain(const at::Tensor& tensor) {
  return tensor.defined() && tensor.layout() == at::kStrided && !tensor.is_quantized() && !tensor.is_nested();
}

// Moves what an op returned on the CPU to the device: adopts the memory, no copy.
at::Tensor adopt(const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.device().is_cpu()) return tensor;
  TORCH_CHECK_NOT_IMPLEMENTED(is_plain(tensor), "moai holds strided tensors only, and this op returned a ",
                              tensor.toString(),
                              "; call it on CPU tensors (an embedding: with sparse=False)");
  const at::Tensor whole = tensor.is_non_overlapping_and_dense() ? tensor : tensor.contiguous();
  const Layout* layout = intern_layout(whole.sizes(), whole.strides(), whole.scalar_type());
  auto block = std::make_shared<runtime::Block>(whole.data_ptr(), layout->bytes,
                                                [keep = whole]() mutable { keep.reset(); });
  return new_tensor(layout, Cell::ready(std::move(block), layout->bytes));
}

// Gives a written argument's tensor the sizes that the op gave its CPU twin.
void take_back(const at::Tensor& original, const at::Tensor& twin) {
  const bool same = twin.sizes() == original.sizes() && twin.strides() == original.strides();
  if (same) return;  // written through the shared memory
  const at::Tensor whole = adopt(twin.clone());
  Storage& storage = storage_of(original);
  const Guard guard(lock());
  Storage& fresh = storage_of(whole);
  if (static_cast<int64_t>(storage.nbytes()) < fresh.layout->bytes)
    storage.set_nbytes(static_cast<size_t>(fresh.layout->bytes));
  set_value(storage, fresh.layout, fresh.cell);
  auto* impl = original.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(whole.sizes(), whole.strides());
}

}  // namespace

at::Tensor to_cpu(const at::Tensor& tensor, Read read, const std::string& why) {
  const at::Tensor shared = cpu_view(tensor, CutReason::kHostRead, why, Touch::kLook);
  if (read == Read::kShare) return shared;
  engine::stats().bytes_to_host.fetch_add(static_cast<int64_t>(tensor.nbytes()), std::memory_order_relaxed);
  return shared.clone();
}

at::Tensor snapshot(const at::Tensor& source) {
  const at::Tensor dense = source.is_non_overlapping_and_dense() ? source : source.contiguous();
  const Layout* layout = intern_layout(dense.sizes(), dense.strides(), dense.scalar_type());
  auto block = allocate(layout->bytes);
  if (layout->bytes > 0) std::memcpy(block->data, dense.const_data_ptr(), static_cast<size_t>(layout->bytes));
  engine::stats().bytes_to_device.fetch_add(layout->bytes, std::memory_order_relaxed);
  return new_tensor(layout, Cell::ready(std::move(block), layout->bytes));
}

void run_at_once(const OpSchema& op, Stack& stack, const std::string& why) {
  engine::stats().count_at_once(op.name.str());
  if (engine::logs(engine::Topic::kAtOnce)) {
    const std::string where = source_line();
    engine::log(engine::Topic::kAtOnce,
                concat(op.name.str(), ": ", why, where.empty() ? "" : " at " + where));
  }
  const size_t n = op.args.size();
  std::vector<std::pair<at::Tensor, at::Tensor>> written;
  std::vector<at::Tensor> twins;
  // It writes memory that queued runs, or other threads' segments, may still read.
  if (op.writes_any) synchronize(CutReason::kAtOnce);
  // Views of one storage may differ and share memory, so that what is written is seen by all.
  map_in_place(op, stack, [&](const at::Tensor& tensor, bool writes) {
    if (!is_moai(tensor)) return tensor;
    at::Tensor twin =
        cpu_view(tensor, CutReason::kAtOnce, op.name.str(), writes ? Touch::kWrite : Touch::kRead);
    if (writes) written.emplace_back(tensor, twin);
    twins.push_back(twin);
    return twin;
  });
  bool to_device = true;
  for (size_t i = 0; i < n; ++i) {
    at::IValue& value = torch::jit::peek(stack, i, n);
    if (op.args[i] == ArgKind::kDevice && value.isDevice()) {
      to_device = value.toDevice().is_privateuseone();
      value = at::Device(at::kCPU);
    }
    if (op.args[i] == ArgKind::kGenerator) value = at::IValue();
  }
  {
    const at::AutoDispatchBelowAutograd below;
    op.handle.callBoxed(stack);
  }
  for (const auto& [original, twin] : written) take_back(original, twin);
  const size_t returned = op.return_alias.size();
  const auto back = [&](const at::Tensor& tensor) -> at::Tensor {
    for (const auto& [original, twin] : written) {
      if (twin.is_same(tensor)) return original;
    }
    if (!to_device) return tensor;
    // A storage's memory is its own: what the op returned of an argument becomes a copy.
    for (const auto& twin : twins) {
      if (is_plain(tensor) && tensor.is_alias_of(twin)) return adopt(tensor.clone());
    }
    return adopt(tensor);
  };
  for (size_t r = 0; r < returned; ++r) {
    at::IValue& value = torch::jit::peek(stack, r, returned);
    if (value.isTensor()) {
      value = back(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const auto& element : value.toListRef()) list.push_back(back(element.toTensor()));
      value = list;
    }
  }
}

namespace {

// The tensor with its lazy conjugation or negation carried out.
at::Tensor carried_out(const at::Tensor& tensor) {
  at::Tensor plain = tensor;
  if (plain.is_neg()) plain = at::neg(at::_neg_view(plain));
  if (plain.is_conj()) plain = at::conj_physical(at::_conj(plain));
  return plain;
}

// An op that writes tensors which are lazily conjugated or negated: it writes their values, and what these
// are of goes back.
void record_lazy_write(const OpSchema& op, Stack& stack) {
  std::vector<std::pair<at::Tensor, at::Tensor>> written;
  map_in_place(op, stack, [&](const at::Tensor& tensor, bool writes) {
    if (!writes || !is_moai(tensor) || !detail::is_lazily_changed(*tensor.unsafeGetTensorImpl()))
      return tensor;
    written.emplace_back(tensor, carried_out(tensor));
    return written.back().second;
  });
  Recorder::current().call(op, stack);
  for (const auto& [original, values] : written) {
    at::Tensor base = original;
    at::Tensor undone = values;
    if (original.is_neg()) {
      base = at::_neg_view(base);
      undone = at::neg(undone);
    }
    if (original.is_conj()) {
      base = at::_conj(base);
      undone = at::conj_physical(undone);
    }
    base.copy_(undone);
  }
  const size_t returned = op.return_alias.size();
  for (size_t r = 0; r < returned; ++r) {
    at::IValue& value = torch::jit::peek(stack, r, returned);
    if (!value.isTensor()) continue;
    for (const auto& [original, values] : written) {
      if (values.is_same(value.toTensor())) {
        value = original;
        break;
      }
    }
  }
}

// A Python complex number, which a graph's numbers do not hold, as a value of the device. Its type
// is what torch gives such a number, so that it promotes as one.
at::Tensor complex_scalar(const at::Tensor& number) {
  const bool wrapped = number.unsafeGetTensorImpl()->is_wrapped_number();
  return snapshot(wrapped ? number.to(c10::get_default_complex_dtype()) : number);
}

}  // namespace

void record_foreign(const OpSchema& op, Stack& stack) {
  bool lazy_write = false;
  bool changed = false;
  map_in_place(op, stack, [&](const at::Tensor& tensor, bool writes) {
    if (!tensor.defined()) return tensor;
    if (is_moai(tensor) && !has_own_storage(*tensor.unsafeGetTensorImpl())) {
      changed = true;
      return over_own_storage(tensor);
    }
    if (is_moai(tensor) && detail::is_lazily_changed(*tensor.unsafeGetTensorImpl())) {
      lazy_write |= writes;
      changed |= !writes;
      return writes ? tensor : carried_out(tensor);
    }
    if (tensor.device().is_cpu() && tensor.dim() == 0 && tensor.is_complex() && !writes) {
      changed = true;
      return complex_scalar(tensor);
    }
    return tensor;
  });
  if (lazy_write && !op.is_out) return record_lazy_write(op, stack);
  if (lazy_write) return run_at_once(op, stack, "writes a tensor that is lazily conjugated or negated");
  if (changed) return Recorder::current().call(op, stack);
  const std::string& name = op.name.str();
  const bool takes_indices = name.rfind("aten.index", 0) == 0 || name.rfind("aten._index", 0) == 0 ||
                             name.rfind("aten._unsafe_index", 0) == 0;
  at::Device first(at::kCPU);
  at::Device other(at::kCPU);
  bool movable = takes_indices;
  bool has_foreign = false;
  map_in_place(op, stack, [&](const at::Tensor& tensor, bool writes) {
    if (!tensor.defined()) return tensor;
    if (is_moai(tensor)) {
      first = tensor.device();
    } else {
      has_foreign = true;
      other = tensor.device();
      const bool is_index = at::isIntegralType(tensor.scalar_type(), /*includeBool=*/true);
      if (!tensor.device().is_cpu() || writes || !is_index) movable = false;
    }
    return tensor;
  });
  if (!has_foreign) return run_at_once(op, stack, "takes an argument that a graph does not hold");
  // Only a generator of ours can have brought a call here that has no tensor of ours.
  TORCH_CHECK(!first.is_cpu() || !op.random, "Expected a '", other.type(),
              "' device type for generator but found '", c10::DeviceType::PrivateUse1, "'");
  TORCH_CHECK(movable, "Expected all tensors to be on the same device, but found at least two devices, ",
              first, " and ", other, "!");
  map_in_place(op, stack, [&](const at::Tensor& tensor, bool) {
    return tensor.defined() && !is_moai(tensor) ? snapshot(tensor) : tensor;
  });
  Recorder::current().call(op, stack);
}

}  // namespace moai::record
