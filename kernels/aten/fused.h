#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "ir/graph.h"
#include "kernels/aten/machine.h"
#include "runtime/run.h"

namespace moai::aten {

class Call;

// The kernel of a text; null, after a line on stderr (one for all), where it does not compile.
std::shared_ptr<CompiledKernel> compiled_or_said(Machine& machine, const std::string& text);

// What a graph's outputs are, by ATen's ops one by one. Its inputs stay as they are: what an op writes in
// place is a copy. `numbers`: the graph's own.
std::vector<at::Tensor> run_graph(const ir::Graph& graph, const std::vector<at::Tensor>& inputs,
                                  const std::vector<runtime::Number>& numbers, Machine& machine);

// A fused node (compile/fuse/groups.h) made ready to call. Where its kernel cannot be compiled, ATen's ops
// run in its place, one by one, and a line on stderr says so, once.
class Fused {
 public:
  Fused(const ir::Node& node, const std::vector<at::Tensor>& operands, Machine& machine);
  ~Fused();

  // What the group's graph returns. `numbers`: of the step.
  std::vector<at::Tensor> run(const std::vector<runtime::Number>& numbers);
  bool is_compiled() const { return compiled_ != nullptr; }

 private:
  std::vector<at::Tensor> launch(const std::vector<runtime::Number>& numbers);
  std::vector<at::Tensor> one_by_one(const std::vector<runtime::Number>& numbers);

  const ir::Graph graph_;
  const std::vector<int32_t> numbers_;  // of the step, by the graph's
  const std::vector<at::Tensor> operands_;
  Machine& machine_;
  std::optional<compile::Kernel> kernel_;
  compile::Collapsed collapsed_;
  std::shared_ptr<CompiledKernel> compiled_;
};

}  // namespace moai::aten
