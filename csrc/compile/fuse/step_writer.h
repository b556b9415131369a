#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "compile/fuse/kernel.h"
#include "ir/graph.h"

namespace moai::compile {

// Writes the steps of one node. What a node cannot say in steps it refuses, and nothing is fused there.
class StepWriter {
 public:
  // `step_of`: by value of the graph, the step that has it.
  StepWriter(const ir::Graph& graph, ir::NodeId id, Kernel& kernel,
             std::unordered_map<ir::ValueId, int32_t>& step_of)
      : graph_(graph), node_(graph.node(id)), kernel_(kernel), step_of_(step_of) {}

  bool refused() const { return refused_; }
  void refuse() { refused_ = true; }

  ir::DType dtype_of(size_t operand) const { return graph_.type(node_.operands.at(operand)).dtype; }
  ir::DType dtype() const { return graph_.type(node_.results[0]).dtype; }

  // Argument `arg` as a step: a tensor, a number of the step (a tensor of no dims on the host counts as one,
  // if it is a Python number), a static number, or a list of one of them.
  int32_t value(size_t arg);
  int64_t integer(size_t arg);                      // a static one
  bool flag(size_t arg);                            // a static one
  std::string text(size_t arg);                     // a static one
  bool is_none(size_t arg) const;                   // or a list of none
  bool is_static(size_t arg, int64_t value) const;  // this number, as an integer or a double

  // Argument `arg` as a number of `dtype`: a tensor has to be of it; a number of the step comes to be one, if
  // no float stands beside integers.
  int32_t like(size_t arg, ir::DType dtype);
  int32_t like_result(size_t arg) { return like(arg, dtype()); }

  int32_t apply(const std::string& text, std::vector<int32_t> args, ir::DType dtype);
  // In the type in which ATen computes with operand 0's numbers: f32 for the half types.
  int32_t wide(const std::string& text, std::vector<int32_t> args);
  // Over the columns, in the wide type.
  int32_t reduce(Step::Reduction reduction, int32_t step);
  // Rounded to the type of result `r`, which it becomes.
  void result(int32_t step, size_t r = 0);
  // The same of the result that is tied to list `arg`; where no result is, the op leaves the list as it was.
  void update(size_t arg, int32_t step);

 private:
  int32_t add(Step step);
  int32_t number(int32_t index);
  int32_t operand_of(size_t arg) const;  // kNone: it is no tensor

  const ir::Graph& graph_;
  const ir::Node& node_;
  Kernel& kernel_;
  std::unordered_map<ir::ValueId, int32_t>& step_of_;
  bool refused_ = false;
};

// The type in which numbers of `dtype` are computed.
ir::DType wide_dtype(ir::DType dtype);
bool is_computed(ir::DType dtype);  // one of the types that kernels know

// What an op means in steps.
struct FusedOp {
  void (*write)(StepWriter& w) = nullptr;
  enum class Columns : uint8_t {
    kNone,  // it reduces nothing
    kDim,   // argument `columns_arg` is the one dim it reduces over
    kDims,  // a list of them
    kSizes  // a list of the inner dims' sizes
  };
  Columns columns = Columns::kNone;
  size_t columns_arg = 1;
  size_t operand = 0;  // whose sizes are the iteration space, where it reduces
};
// Null: it is not fused.
const FusedOp* fused_op(ir::Symbol op);

}  // namespace moai::compile
