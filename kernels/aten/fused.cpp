#include "kernels/aten/fused.h"

#include <ATen/ops/empty_strided.h>

#include <cstdio>
#include <mutex>
#include <string>
#include <utility>

#include "compile/fuse/groups.h"
#include "kernels/aten/call.h"

namespace moai::aten {

namespace {

void say_once(const std::string& why) {
  static std::once_flag once;
  std::call_once(once, [&] {
    const std::string line =
        "moai: a fused kernel was not compiled, ATen's ops run in its place: " + why + "\n";
    std::fwrite(line.data(), 1, line.size(), stderr);
  });
}

std::vector<int32_t> numbers_of(const ir::Node& node) {
  return std::get<ir::NumberListRef>(node.args[2]).indices;
}

}  // namespace

std::shared_ptr<CompiledKernel> compiled_or_said(Machine& machine, const std::string& text) {
  try {
    return machine.compile(text);
  } catch (const Error& error) {
    say_once(error.what());
  } catch (const c10::Error& error) {
    say_once(error.what_without_backtrace());
  }
  return nullptr;
}

Fused::Fused(const ir::Node& node, const std::vector<at::Tensor>& operands, Machine& machine)
    : graph_(compile::fused_graph(node)), numbers_(numbers_of(node)), operands_(operands), machine_(machine) {
  const auto target = machine.fuses();
  kernel_ = compile::build_kernel(graph_);
  if (!target || !kernel_) return;
  collapsed_ = compile::collapse(*kernel_);
  compiled_ = compiled_or_said(machine, compile::emit(*kernel_, collapsed_, *target));
}

Fused::~Fused() = default;

std::vector<at::Tensor> Fused::run(const std::vector<runtime::Number>& numbers) {
  return compiled_ ? launch(numbers) : one_by_one(numbers);
}

std::vector<at::Tensor> Fused::launch(const std::vector<runtime::Number>& numbers) {
  std::vector<at::Tensor> results;
  std::vector<void*> outputs;
  for (const ir::ValueId value : graph_.outputs()) {
    const ir::Type& type = graph_.type(value);
    results.push_back(at::empty_strided(
        type.sizes, type.strides,
        at::TensorOptions(machine_.device()).dtype(static_cast<at::ScalarType>(type.dtype))));
    outputs.push_back(results.back().mutable_data_ptr());
  }
  std::vector<const void*> inputs;
  for (const auto& operand : operands_) inputs.push_back(operand.const_data_ptr());
  std::vector<int64_t> bits;
  for (const int32_t number : numbers_) bits.push_back(numbers[number].i);
  compiled_->launch(compile::launch_of(*kernel_, collapsed_, inputs, outputs, bits));
  return results;
}

std::vector<at::Tensor> Fused::one_by_one(const std::vector<runtime::Number>& numbers) {
  std::vector<runtime::Number> inner;
  for (const int32_t number : numbers_) inner.push_back(numbers[number]);
  std::vector<at::Tensor> values(graph_.values().size());
  for (size_t i = 0; i < operands_.size(); ++i) values[graph_.inputs()[i]] = operands_[i];
  for (const ir::Node& node : graph_.nodes()) {
    std::vector<at::Tensor> operands;
    for (const ir::ValueId operand : node.operands) operands.push_back(values[operand]);
    Call call(node, graph_, operands, machine_);
    call.run(inner);
    auto results = call.fresh_results();
    TORCH_CHECK(results.size() == node.results.size(), node.op.str(), " returned ", results.size(),
                " tensors where its meta kernel said ", node.results.size());
    for (size_t r = 0; r < results.size(); ++r) values[node.results[r]] = std::move(results[r]);
  }
  std::vector<at::Tensor> results;
  for (const ir::ValueId output : graph_.outputs()) results.push_back(values[output]);
  return results;
}

}  // namespace moai::aten
