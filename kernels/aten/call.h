#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include <memory>
#include <optional>
#include <vector>

#include "ir/graph.h"
#include "kernels/aten/fused.h"
#include "kernels/aten/fused_lists.h"
#include "kernels/aten/machine.h"
#include "runtime/run.h"

namespace moai::aten {

// A node made ready to call: the operator, its arguments as boxed values, and where the numbers
// of a step go. Tensors are bound once; only numbers change between runs.
class Call {
 public:
  // `operands`: by operand of the node; undefined where absent.
  Call(const ir::Node& node, const ir::Graph& graph, const std::vector<at::Tensor>& operands,
       Machine& machine);

  // Runs it with these numbers. Returns what the operator returned, valid until the next run; a
  // tied result is written through its operand.
  torch::jit::Stack& run(const std::vector<runtime::Number>& numbers);

  // Drops what the last run returned.
  void clear() { stack_.clear(); }

  // For each result of the node that is not tied, in order: the tensor the operator returned.
  // Flattens lists and leaves out undefined tensors, as the recorder does.
  std::vector<at::Tensor> fresh_results();

 private:
  struct NumberPatch {
    size_t argument;
    int32_t number;
    ir::NumberKind kind;
    c10::TypeKind type;  // what the schema asks for
  };
  struct HostScalarPatch {
    at::Tensor tensor;
    int32_t number;
  };
  struct ListPatch {
    size_t argument;
    std::vector<int32_t> numbers;
    std::vector<ir::NumberKind> kinds;
  };

  at::IValue value_of(const ir::Arg& arg, const c10::Argument& schema, size_t index, const ir::Graph& graph,
                      const std::vector<at::Tensor>& operands, c10::Device device);

  std::optional<c10::OperatorHandle> op_;  // none: moai.undefined, or a fused group
  std::unique_ptr<Fused> fused_;
  std::unique_ptr<FusedLists> fused_lists_;
  Kernel kernel_;    // in the operator's place
  Sampler sampler_;  // of a random op
  Draw draw_;        // its seed and counter are those of the last run
  int32_t seed_ = 0;
  int32_t counter_ = 0;
  torch::jit::Stack arguments_;
  torch::jit::Stack stack_;
  std::vector<NumberPatch> numbers_;
  std::vector<HostScalarPatch> host_scalars_;
  std::vector<ListPatch> lists_;
};

}  // namespace moai::aten
