#include "kernels/aten/fused_lists.h"

#include <ATen/ops/empty_strided.h>

#include <utility>

#include "kernels/aten/fused.h"

namespace moai::aten {

namespace {

// The element of `tensor` in a list that may be of one for all.
int32_t one_of(const std::vector<int32_t>& list, size_t tensor) {
  return list.size() == 1 ? list[0] : list[tensor];
}

}  // namespace

FusedLists::FusedLists(const ir::Node& node, const std::vector<at::Tensor>& operands, Machine& machine)
    : lists_(compile::fused_lists(node)), operands_(operands), machine_(machine) {
  const auto& inputs = lists_.graph.inputs();
  while (lists_.graph.type(inputs.at(like_)).sizes.empty()) ++like_;
  const auto target = machine.fuses();
  kernel_ = compile::build_list_kernel(lists_.graph);
  if (target && kernel_) compiled_ = compiled_or_said(machine, compile::emit_lists(*kernel_, *target));
}

const at::Tensor& FusedLists::operand(size_t input, size_t tensor) const {
  return operands_[one_of(lists_.inputs[input], tensor)];
}

std::vector<at::Tensor> FusedLists::run(const std::vector<runtime::Number>& numbers) {
  return compiled_ ? launch(numbers) : one_by_one(numbers);
}

std::vector<at::Tensor> FusedLists::launch(const std::vector<runtime::Number>& numbers) {
  std::vector<compile::ListRow> rows(lists_.tensors);
  const auto address = [](const at::Tensor& tensor) {
    return reinterpret_cast<int64_t>(tensor.const_data_ptr());
  };
  for (size_t i = 0; i < lists_.tensors; ++i) {
    rows[i].elements = operand(like_, i).numel();
    for (size_t input = 0; input < lists_.inputs.size(); ++input)
      rows[i].addresses.push_back(address(operand(input, i)));
    for (const auto& list : lists_.numbers) rows[i].numbers.push_back(numbers[one_of(list, i)].i);
  }
  std::vector<at::Tensor> fresh;
  for (size_t o = 0; o < lists_.tied.size(); ++o) {
    const auto dtype = static_cast<at::ScalarType>(lists_.graph.type(lists_.graph.outputs()[o]).dtype);
    for (size_t i = 0; i < lists_.tensors; ++i) {
      const int32_t tied = lists_.tied[o][i];
      if (tied == ir::kNone) {
        const at::Tensor& like = operand(like_, i);
        fresh.push_back(at::empty_strided(like.sizes(), like.strides(),
                                          at::TensorOptions(machine_.device()).dtype(dtype)));
      }
      rows[i].addresses.push_back(address(tied == ir::kNone ? fresh.back() : operands_[tied]));
    }
  }
  compiled_->launch(compile::launch_of_lists(*kernel_, rows));
  return fresh;
}

std::vector<at::Tensor> FusedLists::one_by_one(const std::vector<runtime::Number>& numbers) {
  const ir::Graph& graph = lists_.graph;
  std::vector<std::vector<at::Tensor>> fresh(graph.outputs().size());
  for (size_t i = 0; i < lists_.tensors; ++i) {
    std::vector<runtime::Number> inner;
    for (const auto& list : lists_.numbers) inner.push_back(numbers[one_of(list, i)]);
    std::vector<at::Tensor> inputs;
    for (size_t input = 0; input < graph.inputs().size(); ++input) inputs.push_back(operand(input, i));
    const std::vector<at::Tensor> outputs = run_graph(graph, inputs, inner, machine_);
    for (size_t o = 0; o < graph.outputs().size(); ++o) {
      const int32_t tied = lists_.tied[o][i];
      tied == ir::kNone ? fresh[o].push_back(outputs[o])
                        : static_cast<void>(operands_[tied].copy_(outputs[o]));
    }
  }
  std::vector<at::Tensor> all;
  for (auto& list : fresh) all.insert(all.end(), list.begin(), list.end());
  return all;
}

}  // namespace moai::aten
