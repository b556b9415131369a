#include "kernels/aten/fused.h"

#include <ATen/ops/empty_strided.h>

#include <algorithm>
#include <cstdio>
#include <mutex>
#include <string>
#include <unordered_set>
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

std::vector<at::Tensor> run_graph(const ir::Graph& graph, const std::vector<at::Tensor>& inputs,
                                  const std::vector<runtime::Number>& numbers, Machine& machine) {
  std::unordered_set<ir::ValueId> written;  // what an op in place begins with
  for (const ir::Node& node : graph.nodes()) {
    for (size_t r = 0; r < node.results.size(); ++r) {
      if (node.tied_operand(r) != ir::kNone) written.insert(node.operands[node.tied_operand(r)]);
    }
  }
  std::vector<at::Tensor> values(graph.values().size());
  for (size_t i = 0; i < inputs.size(); ++i) values[graph.inputs()[i]] = inputs[i];
  for (const ir::Node& node : graph.nodes()) {
    std::vector<at::Tensor> operands;
    for (const ir::ValueId value : node.operands)
      operands.push_back(written.count(value) != 0 ? values[value].clone() : values[value]);
    Call call(node, graph, operands, machine);
    call.run(numbers);
    auto fresh = call.fresh_results();
    const auto tied =
        std::count_if(node.tied.begin(), node.tied.end(), [](int32_t t) { return t != ir::kNone; });
    const size_t expected = node.results.size() - static_cast<size_t>(tied);
    TORCH_CHECK(fresh.size() == expected, node.op.str(), " returned ", fresh.size(),
                " tensors where its meta kernel said ", expected);
    size_t next = 0;
    for (size_t r = 0; r < node.results.size(); ++r) {
      const int32_t operand = node.tied_operand(r);
      values[node.results[r]] = operand == ir::kNone ? std::move(fresh[next++]) : operands[operand];
    }
  }
  std::vector<at::Tensor> outputs;
  for (const ir::ValueId output : graph.outputs()) outputs.push_back(values[output]);
  return outputs;
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
  return run_graph(graph_, operands_, inner, machine_);
}

}  // namespace moai::aten
