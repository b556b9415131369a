#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ir/graph.h"

namespace moai::compile {

// Note [Fused kernels]
// A group of pointwise ops and reductions becomes one kernel, which is a list of steps over an iteration
// space: rows of columns. A step is one number for each element, or one for each row: what a reduction over
// the columns made, and what is computed from that. Each step's number is rounded to the type that ATen's op
// would have stored, so that a fused kernel gives what the ops would give one by one, up to the order of sums
// and the library's exponentials. Sizes and strides are arguments of a kernel, and no part of its text: the
// text of a structure serves all its sizes.

struct Step {
  enum class Kind : uint8_t {
    kLoad,    // of input `index`
    kNumber,  // `index` among the kernel's numbers
    kApply,   // `text`, in which $0, $1, … are the arguments and @0.5 is a number of the type
    kReduce,  // of argument 0 over a row's columns
  };
  enum class Reduction : uint8_t { kSum, kMax, kMin };
  Kind kind = Kind::kApply;
  ir::DType dtype = ir::DType::kF32;  // that the number is rounded to
  bool of_row = false;                // one for each row
  int32_t index = 0;
  Reduction reduction = Reduction::kSum;
  std::string text;
  std::vector<int32_t> args;
};

// How a tensor lies in the iteration space; strides are in elements, by dim of Kernel::sizes, 0 where it is
// broadcast. What is of a row has none over the columns.
struct Operand {
  ir::DType dtype = ir::DType::kF32;
  ir::Dims strides;
  bool of_row = false;
};

struct Kernel {
  ir::Dims sizes;       // of the iteration space
  size_t row_dims = 0;  // the outer dims, which tell rows apart; the rest are columns
  bool reduces = false;
  bool of_lists = false;         // a row is a tensor of its own, see Note [Fused lists]; no sizes, no strides
  std::vector<Operand> inputs;   // by input of the graph
  std::vector<Operand> outputs;  // by output of the graph
  std::vector<ir::NumberKind> numbers;
  std::vector<Step> steps;       // each after its arguments
  std::vector<int32_t> results;  // by output: the step

  // Without rows a kernel goes through all columns at once, with as many blocks as there is work for.
  bool has_rows() const { return reduces || of_lists; }
};

// The kernel of a graph of fusable nodes. `graph`: without views; its outputs are what the kernel writes,
// contiguous or as their strides say. Nothing where one kernel cannot be it.
std::optional<Kernel> build_kernel(const ir::Graph& graph);

// Whether a node by itself can be a part of a kernel, and over which columns it reduces.
struct Fusable {
  ir::Dims sizes;      // of the iteration space, where it reduces; else of its result
  size_t columns = 0;  // inner dims that it reduces over
};
std::optional<Fusable> fusable(const ir::Graph& graph, ir::NodeId node);

}  // namespace moai::compile
