#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <vector>

#include "compile/fuse/lists.h"
#include "kernels/aten/machine.h"
#include "runtime/run.h"

namespace moai::aten {

// A node of fused lists (compile/fuse/lists.h) made ready to call. Where its kernel cannot be compiled,
// ATen's ops run in its place, tensor by tensor.
class FusedLists {
 public:
  FusedLists(const ir::Node& node, const std::vector<at::Tensor>& operands, Machine& machine);

  // Writes the tied results through their operands; returns the others.
  std::vector<at::Tensor> run(const std::vector<runtime::Number>& numbers);

 private:
  const at::Tensor& operand(size_t input, size_t tensor) const;
  std::vector<at::Tensor> launch(const std::vector<runtime::Number>& numbers);
  std::vector<at::Tensor> one_by_one(const std::vector<runtime::Number>& numbers);

  const compile::FusedLists lists_;
  const std::vector<at::Tensor> operands_;
  Machine& machine_;
  size_t like_ = 0;  // an input that lies as the results do
  std::optional<compile::Kernel> kernel_;
  std::shared_ptr<CompiledKernel> compiled_;
};

}  // namespace moai::aten
