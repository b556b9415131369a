#include "kernels/aten/call.h"

#include <ATen/Dispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>

#include "compile/fuse/groups.h"
#include "compile/fuse/lists.h"
#include "ir/error.h"

namespace moai::aten {

namespace {

// `aten.add.Tensor` -> {aten::add, Tensor}.
c10::OperatorHandle find(const std::string& symbol) {
  const auto dot = symbol.find('.');
  const auto second = symbol.find('.', dot + 1);
  const std::string name = symbol.substr(0, dot) + "::" +
                           symbol.substr(dot + 1, second == std::string::npos ? second : second - dot - 1);
  const std::string overload = second == std::string::npos ? "" : symbol.substr(second + 1);
  return c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), overload.c_str());
}

const c10::Type& inner_type(const c10::Argument& argument) {
  const auto& type = *argument.real_type();
  return type.kind() == c10::TypeKind::OptionalType ? *type.castRaw<c10::OptionalType>()->getElementType()
                                                    : type;
}

at::Scalar scalar_of(runtime::Number number, ir::NumberKind kind) {
  switch (kind) {
    case ir::NumberKind::kFloat: return number.f;
    case ir::NumberKind::kInt: return number.i;
    case ir::NumberKind::kBool: return number.i != 0;
  }
  return {};
}

void write_scalar(at::Tensor& tensor, runtime::Number number) {
  AT_DISPATCH_ALL_TYPES_AND3(at::kBool, at::kHalf, at::kBFloat16, tensor.scalar_type(), "moai_host_scalar",
                             [&] {
                               *tensor.mutable_data_ptr<scalar_t>() = at::isFloatingType(tensor.scalar_type())
                                                                          ? static_cast<scalar_t>(number.f)
                                                                          : static_cast<scalar_t>(number.i);
                             });
}

void flatten(const at::IValue& value, std::vector<at::Tensor>* out) {
  if (value.isTensor()) {
    if (value.toTensor().defined()) out->push_back(value.toTensor());
  } else if (value.isList()) {
    for (const auto& element : value.toListRef()) flatten(element, out);
  }
}

}  // namespace

Call::Call(const ir::Node& node, const ir::Graph& graph, const std::vector<at::Tensor>& operands,
           Machine& machine) {
  if (node.op.str() == "moai.undefined") return;
  if (compile::is_fused(node)) {
    fused_ = std::make_unique<Fused>(node, operands, machine);
    return;
  }
  if (compile::is_fused_lists(node)) {
    fused_lists_ = std::make_unique<FusedLists>(node, operands, machine);
    return;
  }
  op_ = find(node.op.str());
  kernel_ = machine.kernel(node.op.str());
  const auto& arguments = op_->schema().arguments();
  MOAI_ASSERT(node.args.size() >= arguments.size(), node.op.str(), " has too few arguments");
  for (size_t i = 0; i < arguments.size(); ++i) {
    arguments_.push_back(value_of(node.args[i], arguments[i], i, graph, operands, machine.device()));
  }
  if (node.args.size() > arguments.size()) {
    sampler_ = machine.sampler(node.op.str());
    MOAI_ASSERT(sampler_ != nullptr, node.op.str(), " draws random numbers and has no sampler");
    seed_ = std::get<ir::NumberRef>(node.args[arguments.size()]).index;
    counter_ = std::get<ir::NumberRef>(node.args[arguments.size() + 1]).index;
    if (node.args.size() > arguments.size() + 2)
      draw_.part = SampledPart(std::get<ir::Dims>(node.args[arguments.size() + 2]));
  }
}

at::IValue Call::value_of(const ir::Arg& arg, const c10::Argument& schema, size_t index,
                          const ir::Graph& graph, const std::vector<at::Tensor>& operands,
                          c10::Device device) {
  const c10::Type& type = inner_type(schema);
  if (std::holds_alternative<ir::NoneArg>(arg)) {
    if (type.kind() == c10::TypeKind::DeviceObjType) return device;
    const bool is_tensor = type.kind() == c10::TypeKind::TensorType;
    return is_tensor && schema.real_type()->kind() != c10::TypeKind::OptionalType ? at::IValue(at::Tensor())
                                                                                  : at::IValue();
  }
  if (const auto* operand = std::get_if<ir::OperandRef>(&arg)) return operands[operand->operand];
  if (const auto* list = std::get_if<ir::OperandListRef>(&arg)) {
    const bool optional =
        type.castRaw<c10::ListType>()->getElementType()->kind() == c10::TypeKind::OptionalType;
    if (optional) {
      c10::List<std::optional<at::Tensor>> tensors;
      for (const int32_t o : list->operands) {
        tensors.push_back(o == ir::kNone ? std::nullopt : std::optional<at::Tensor>(operands[o]));
      }
      return tensors;
    }
    c10::List<at::Tensor> tensors;
    for (const int32_t o : list->operands) tensors.push_back(o == ir::kNone ? at::Tensor() : operands[o]);
    return tensors;
  }
  if (const auto* number = std::get_if<ir::NumberRef>(&arg)) {
    numbers_.push_back({index, number->index, graph.numbers()[number->index], type.kind()});
    return {};
  }
  if (const auto* list = std::get_if<ir::NumberListRef>(&arg)) {
    ListPatch patch{index, list->indices, {}};
    for (const int32_t n : list->indices) patch.kinds.push_back(graph.numbers()[n]);
    lists_.push_back(std::move(patch));
    return {};
  }
  if (const auto* host = std::get_if<ir::HostScalarArg>(&arg)) {
    at::Tensor tensor =
        at::empty({}, at::TensorOptions(at::kCPU).dtype(static_cast<at::ScalarType>(host->dtype)));
    if (host->wrapped) tensor.unsafeGetTensorImpl()->set_wrapped_number(true);
    host_scalars_.push_back({tensor, host->number});
    return tensor;
  }
  if (const auto* flag = std::get_if<bool>(&arg)) {
    return type.kind() == c10::TypeKind::NumberType ? at::IValue(at::Scalar(*flag)) : at::IValue(*flag);
  }
  if (const auto* integer = std::get_if<int64_t>(&arg)) return *integer;
  if (const auto* real = std::get_if<double>(&arg)) return *real;
  if (const auto* text = std::get_if<std::string>(&arg)) return *text;
  if (const auto* dtype = std::get_if<ir::DTypeArg>(&arg)) return static_cast<int64_t>(dtype->dtype);
  if (const auto* bools = std::get_if<std::vector<bool>>(&arg)) {
    c10::List<bool> list;
    for (const bool b : *bools) list.push_back(b);
    return list;
  }
  if (const auto* reals = std::get_if<std::vector<double>>(&arg)) {
    if (type.kind() == c10::TypeKind::NumberType) return c10::complex<double>((*reals)[0], (*reals)[1]);
    return c10::List<double>(c10::ArrayRef<double>(*reals));
  }
  return c10::List<int64_t>(c10::ArrayRef<int64_t>(std::get<std::vector<int64_t>>(arg)));
}

torch::jit::Stack& Call::run(const std::vector<runtime::Number>& numbers) {
  stack_.clear();
  if (fused_ != nullptr || fused_lists_ != nullptr) {
    for (auto& result : fused_ != nullptr ? fused_->run(numbers) : fused_lists_->run(numbers))
      stack_.emplace_back(std::move(result));
    return stack_;
  }
  if (!op_.has_value()) return stack_;
  stack_.insert(stack_.end(), arguments_.begin(), arguments_.end());
  for (const auto& patch : numbers_) {
    const auto number = numbers[patch.number];
    if (patch.type == c10::TypeKind::FloatType) {
      stack_[patch.argument] =
          patch.kind == ir::NumberKind::kFloat ? number.f : static_cast<double>(number.i);
    } else {
      stack_[patch.argument] = scalar_of(number, patch.kind);
    }
  }
  for (const auto& patch : lists_) {
    c10::List<at::Scalar> list;
    for (size_t i = 0; i < patch.numbers.size(); ++i) {
      list.push_back(scalar_of(numbers[patch.numbers[i]], patch.kinds[i]));
    }
    stack_[patch.argument] = std::move(list);
  }
  for (auto& patch : host_scalars_) write_scalar(patch.tensor, numbers[patch.number]);
  if (sampler_ != nullptr) {
    draw_.seed = static_cast<uint64_t>(numbers[seed_].i);
    draw_.counter = static_cast<uint64_t>(numbers[counter_].i);
    sampler_(stack_, draw_);
  } else if (kernel_ != nullptr) {
    kernel_(stack_);
  } else {
    op_->callBoxed(stack_);
  }
  return stack_;
}

std::vector<at::Tensor> Call::fresh_results() {
  std::vector<at::Tensor> results;
  if (fused_ != nullptr || fused_lists_ != nullptr) {
    for (const auto& value : stack_) results.push_back(value.toTensor());
    return results;
  }
  if (!op_.has_value()) return results;
  const auto& returns = op_->schema().returns();
  for (size_t r = 0; r < returns.size(); ++r) {
    if (returns[r].alias_info() != nullptr) continue;
    flatten(stack_[r], &results);
  }
  return results;
}

}  // namespace moai::aten
