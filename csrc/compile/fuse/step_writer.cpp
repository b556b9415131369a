#include "compile/fuse/step_writer.h"

#include <cstdio>
#include <utility>

namespace moai::compile {

using ir::DType;

DType wide_dtype(DType dtype) {
  switch (dtype) {
    case DType::kF16:
    case DType::kBF16: return DType::kF32;
    case DType::kI32: return DType::kI64;
    default: return dtype;
  }
}

bool is_computed(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
    case DType::kI64:
    case DType::kI32:
    case DType::kBool: return true;
    default: return false;
  }
}

int32_t StepWriter::add(Step step) {
  for (const int32_t arg : step.args) {
    if (arg < 0) {
      refuse();
      return -1;
    }
  }
  kernel_.steps.push_back(std::move(step));
  return static_cast<int32_t>(kernel_.steps.size()) - 1;
}

bool StepWriter::is_none(size_t arg) const {
  if (arg >= node_.args.size() || std::holds_alternative<ir::NoneArg>(node_.args[arg])) return true;
  const auto* list = std::get_if<ir::OperandListRef>(&node_.args[arg]);
  return list != nullptr && list->operands.empty();
}

int32_t StepWriter::operand_of(size_t arg) const {
  const ir::Arg& given = node_.args.at(arg);
  if (const auto* operand = std::get_if<ir::OperandRef>(&given)) return operand->operand;
  const auto* list = std::get_if<ir::OperandListRef>(&given);
  return list != nullptr && list->operands.size() == 1 ? list->operands[0] : ir::kNone;
}

int32_t StepWriter::number(int32_t index) {
  Step step;
  step.kind = Step::Kind::kNumber;
  step.of_row = true;  // of all there is
  step.index = index;
  step.dtype = graph_.numbers()[index] == ir::NumberKind::kFloat ? DType::kF64 : DType::kI64;
  return add(std::move(step));
}

bool StepWriter::is_static(size_t arg, int64_t value) const {
  const auto* integer = std::get_if<int64_t>(&node_.args.at(arg));
  const auto* real = std::get_if<double>(&node_.args.at(arg));
  return (integer != nullptr && *integer == value) ||
         (real != nullptr && *real == static_cast<double>(value));
}

int32_t StepWriter::value(size_t arg) {
  const ir::Arg& given = node_.args.at(arg);
  const int32_t operand = operand_of(arg);
  if (operand != ir::kNone) return step_of_.at(node_.operands[operand]);
  if (const auto* ref = std::get_if<ir::NumberRef>(&given)) return number(ref->index);
  const auto* list = std::get_if<ir::NumberListRef>(&given);
  if (list != nullptr && list->indices.size() == 1) return number(list->indices[0]);
  if (const auto* host = std::get_if<ir::HostScalarArg>(&given)) {
    if (!host->wrapped) refuse();
    return number(host->number);
  }
  char text[40];
  if (const auto* integer = std::get_if<int64_t>(&given)) {
    std::snprintf(text, sizeof text, "%lldLL", static_cast<long long>(*integer));
    return apply(text, {}, DType::kI64);
  }
  if (const auto* real = std::get_if<double>(&given)) {
    if (*real - *real != 0) refuse();  // an infinity has no text
    std::snprintf(text, sizeof text, "%.17e", *real);
    return apply(text, {}, DType::kF64);
  }
  if (const auto* flag = std::get_if<bool>(&given)) return apply(*flag ? "1LL" : "0LL", {}, DType::kI64);
  refuse();
  return -1;
}

int64_t StepWriter::integer(size_t arg) {
  const auto* value = arg < node_.args.size() ? std::get_if<int64_t>(&node_.args[arg]) : nullptr;
  if (value == nullptr) refuse();
  return value == nullptr ? 0 : *value;
}

bool StepWriter::flag(size_t arg) {
  const auto* value = arg < node_.args.size() ? std::get_if<bool>(&node_.args[arg]) : nullptr;
  if (value == nullptr) refuse();
  return value != nullptr && *value;
}

std::string StepWriter::text(size_t arg) {
  const auto* value = arg < node_.args.size() ? std::get_if<std::string>(&node_.args[arg]) : nullptr;
  if (value == nullptr) refuse();
  return value == nullptr ? std::string() : *value;
}

int32_t StepWriter::like(size_t arg, DType dtype) {
  const int32_t step = value(arg);
  if (step < 0) return step;
  if (operand_of(arg) != ir::kNone) {
    if (kernel_.steps[step].dtype != dtype) refuse();
    return step;
  }
  const bool is_float = kernel_.steps[step].dtype == DType::kF64;
  const bool is_integral = dtype == DType::kI64 || dtype == DType::kI32 || dtype == DType::kBool;
  if (is_integral && (is_float || dtype == DType::kBool)) refuse();
  return apply("$0", {step}, wide_dtype(dtype));
}

int32_t StepWriter::apply(const std::string& text, std::vector<int32_t> args, DType dtype) {
  Step step;
  step.kind = Step::Kind::kApply;
  step.dtype = dtype;
  step.text = text;
  step.of_row = true;
  for (const int32_t arg : args) step.of_row = step.of_row && (arg < 0 || kernel_.steps[arg].of_row);
  step.args = std::move(args);
  return add(std::move(step));
}

int32_t StepWriter::wide(const std::string& text, std::vector<int32_t> args) {
  return apply(text, std::move(args), wide_dtype(graph_.type(node_.operands[0]).dtype));
}

int32_t StepWriter::reduce(Step::Reduction reduction, int32_t of) {
  Step step;
  step.kind = Step::Kind::kReduce;
  step.reduction = reduction;
  step.dtype = of < 0 ? DType::kF32 : wide_dtype(kernel_.steps[of].dtype);
  step.of_row = true;
  step.args = {of};
  kernel_.reduces = true;
  return add(std::move(step));
}

void StepWriter::result(int32_t step, size_t r) {
  const ir::ValueId value = node_.results[r];
  step_of_[value] = apply("$0", {step}, graph_.type(value).dtype);
}

void StepWriter::update(size_t arg, int32_t step) {
  const int32_t operand = operand_of(arg);
  for (size_t r = 0; r < node_.results.size(); ++r) {
    if (operand != ir::kNone && node_.tied_operand(r) == operand) result(step, r);
  }
}

}  // namespace moai::compile
