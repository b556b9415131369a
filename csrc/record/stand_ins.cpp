#include "record/stand_ins.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/MemoryOverlap.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <mutex>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "record/gil.h"
#include "record/storage.h"

namespace moai::record {

namespace {

constexpr int64_t kMostReplayedBytes = int64_t{8} << 30;

template <typename Each>
at::IValue map_tensors(const at::IValue& value, const Each& each) {
  if (value.isTensor()) return each(value.toTensor());
  if (value.isTensorList()) {
    c10::List<at::Tensor> list;
    for (const auto& element : value.toListRef()) list.push_back(each(element.toTensor()));
    return list;
  }
  if (value.isOptionalTensorList() || (value.isList() && !value.toListRef().empty() &&
                                       (value.toListRef()[0].isTensor() || value.toListRef()[0].isNone()))) {
    c10::List<std::optional<at::Tensor>> list;
    for (const auto& element : value.toListRef()) {
      if (element.isNone()) {
        list.push_back(std::nullopt);
      } else {
        list.push_back(each(element.toTensor()));
      }
    }
    return list;
  }
  return value;
}

// The arguments on zeros, where those that share memory share it, and one that comes twice stays one.
torch::jit::Stack on_shared_zeros(const OpSchema& op, at::ArrayRef<at::IValue> args) {
  std::unordered_map<const c10::StorageImpl*, at::Tensor> bytes;
  std::unordered_map<const c10::TensorImpl*, at::Tensor> made;
  return with_tensors(op, args, at::kCPU, [&](const at::Tensor& tensor, size_t) {
    if (!is_moai(tensor)) return tensor;
    at::Tensor& twin = made[tensor.unsafeGetTensorImpl()];
    if (twin.defined()) return twin;
    const auto* storage = tensor.storage().unsafeGetStorageImpl();
    at::Tensor& memory = bytes[storage];
    if (!memory.defined()) memory = at::zeros({static_cast<int64_t>(storage->nbytes())}, at::kByte);
    twin = at::empty({0}, at::TensorOptions(at::kCPU).dtype(tensor.scalar_type()))
               .set_(memory.storage(), tensor.storage_offset(), tensor.sizes(), tensor.strides());
    return twin;
  });
}

enum class Overlap : uint8_t { kNone, kWhole, kPart };

// How what the op writes lies on what else it is given; lists count where an `out=` is written.
Overlap overlap_of(const OpSchema& op, at::ArrayRef<at::IValue> args) {
  auto worst = Overlap::kNone;
  for (size_t i = 0; i < op.args.size(); ++i) {
    if (!op.written[i] || op.args[i] != ArgKind::kTensor || !is_moai(args[i].toTensor())) continue;
    const at::Tensor& written = args[i].toTensor();
    const auto look_at = [&](const at::Tensor& other) {
      if (!is_moai(other) || !other.is_alias_of(written)) return;
      const auto status = at::get_overlap_status(written, other);
      if (status == at::MemOverlapStatus::Partial) worst = Overlap::kPart;
      if (status == at::MemOverlapStatus::Full && worst == Overlap::kNone) worst = Overlap::kWhole;
    };
    for (size_t j = 0; j < op.args.size(); ++j) {
      if (j == i) continue;
      if (op.args[j] == ArgKind::kTensor && args[j].isTensor()) look_at(args[j].toTensor());
      if (op.args[j] == ArgKind::kTensorList && op.is_out) for_each_tensor({args[j]}, look_at);
    }
  }
  return worst;
}

}  // namespace

torch::jit::Stack with_tensors(const OpSchema& op, at::ArrayRef<at::IValue> args, c10::Device device,
                               const StandIn& each) {
  torch::jit::Stack stack;
  stack.reserve(args.size());
  for (size_t i = 0; i < args.size(); ++i) {
    switch (op.args[i]) {
      case ArgKind::kTensor:
      case ArgKind::kTensorList:
        stack.push_back(map_tensors(args[i], [&](const at::Tensor& t) { return each(t, i); }));
        break;
      case ArgKind::kDevice: stack.emplace_back(device); break;
      case ArgKind::kGenerator:
        if (device.is_cpu()) {
          stack.emplace_back(at::make_generator<at::CPUGeneratorImpl>());
        } else {
          stack.emplace_back();
        }
        break;
      default: stack.push_back(args[i]);
    }
  }
  return stack;
}

void call_on(const OpSchema& op, torch::jit::Stack& stack) {
  const at::AutoDispatchBelowAutograd below;
  // Torch's boxing drops the arguments before it copies a tuple of references to them.
  const torch::jit::Stack held = stack;
  op.handle.callBoxed(stack);
}

torch::jit::Stack on_zeros(const OpSchema& op, at::ArrayRef<at::IValue> args) {
  std::vector<std::pair<const at::TensorImpl*, at::Tensor>> made;
  return with_tensors(op, args, at::kCPU, [&](const at::Tensor& tensor, size_t argument) {
    if (!is_moai(tensor)) return tensor;
    for (const auto& [from, to] : made) {
      if (from == tensor.unsafeGetTensorImpl()) return to;
    }
    const ir::Type type{to_ir(tensor.scalar_type()), tensor.sizes().vec(), tensor.strides().vec()};
    const auto options = at::TensorOptions(at::kCPU).dtype(tensor.scalar_type());
    const bool is_pivots =
        op.handle.schema().arguments()[argument].name().find("pivots") != std::string::npos;
    const at::Tensor flat =
        is_pivots ? at::ones({type.extent()}, options) : at::zeros({type.extent()}, options);
    made.emplace_back(tensor.unsafeGetTensorImpl(), flat.as_strided(tensor.sizes(), tensor.strides()));
    return made.back().second;
  });
}

bool fits_on_cpu(at::ArrayRef<at::IValue> args) {
  int64_t bytes = 0;
  for_each_tensor(args, [&](const at::Tensor& t) {
    if (t.defined()) bytes += static_cast<int64_t>(t.nbytes());
  });
  return bytes <= kMostReplayedBytes;
}

void refuse_overlap(const OpSchema& op, at::ArrayRef<at::IValue> args) {
  if (!op.writes_any) return;
  const Overlap overlap = overlap_of(op, args);
  // In place, an operand may be what is written.
  if (overlap == Overlap::kNone || (overlap == Overlap::kWhole && !op.is_out)) return;
  static auto* guard_of_accepting = new std::mutex;
  static auto* accepting = new std::unordered_set<const OpSchema*>;  // such an `out=`
  if (overlap == Overlap::kWhole) {
    const std::lock_guard<std::mutex> guard(*guard_of_accepting);
    if (accepting->count(&op) != 0) return;
  }
  if (op.random || !fits_on_cpu(args)) return;
  try {
    auto stack = on_shared_zeros(op, args);
    call_on(op, stack);
  } catch (const c10::Error& error) {
    // Zeros may be to blame for anything else.
    const std::string text = error.what_without_backtrace();
    if (text.find("to a single memory location") != std::string::npos) throw;
    return;
  } catch (const std::exception&) {
    if (is_interrupt()) throw;
    return;
  }
  if (overlap != Overlap::kWhole) return;
  const std::lock_guard<std::mutex> guard(*guard_of_accepting);
  accepting->insert(&op);
}

}  // namespace moai::record
