#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "ir/symbol.h"
#include "ir/type.h"

namespace moai::ir {

using ValueId = int32_t;
using NodeId = int32_t;
constexpr int32_t kNone = -1;

enum class NumberKind : uint8_t { kInt, kFloat, kBool };

// Note [Numbers are inputs]
// Scalars, floats and offsets of views are no part of a graph's structure: an argument refers to
// a position in a typed buffer that arrives with each step. Changing them never recompiles.
struct NumberRef {
  int32_t index = 0;
  bool operator==(NumberRef other) const { return index == other.index; }
};

// Refers to the node's operand list.
struct OperandRef {
  int32_t operand = 0;
  bool operator==(OperandRef other) const { return operand == other.operand; }
};

// A TensorList argument; an entry of kNone stands for an absent optional tensor.
struct OperandListRef {
  std::vector<int32_t> operands;
  bool operator==(const OperandListRef& other) const { return operands == other.operands; }
};

// Lists of numbers (ScalarList arguments).
struct NumberListRef {
  std::vector<int32_t> indices;
  bool operator==(const NumberListRef& other) const { return indices == other.indices; }
};

struct NoneArg {
  bool operator==(NoneArg) const { return true; }
};
struct DTypeArg {
  DType dtype = DType::kF32;
  bool operator==(DTypeArg other) const { return dtype == other.dtype; }
};
// A 0-dim host tensor, `wrapped` as Python numbers are: its value is a number of the step.
struct HostScalarArg {
  int32_t number = 0;
  DType dtype = DType::kF32;
  bool wrapped = false;
  bool operator==(const HostScalarArg& o) const {
    return number == o.number && dtype == o.dtype && wrapped == o.wrapped;
  }
};

// One argument of a node, in the order of the operator's schema. Everything but the Refs is
// static: part of the structure, compared and hashed. Device arguments are NoneArg or the string
// "device"; layouts and memory formats are int64_t with torch's numbering.
using Arg = std::variant<NoneArg, bool, int64_t, double, std::string, DTypeArg, std::vector<int64_t>,
                         std::vector<double>, std::vector<bool>, OperandRef, OperandListRef, NumberRef,
                         NumberListRef, HostScalarArg>;

enum class NodeKind : uint8_t {
  kOp,    // an operator, named `namespace.name.overload`
  kView,  // result = strided view of operand 0: args = {offset: int64_t or NumberRef}; result type = the view
  kUpdate,  // result = operand 0 with the region that the view describes replaced by operand 1:
            // args = {sizes, strides, offset: int64_t or NumberRef}; result type = operand 0's
};

// Which part of the step a node was recorded in. Common subexpressions never merge across the
// start of backward (recomputation asked for by the user must stay one).
enum class Section : uint8_t { kForward, kBackward };

// A node has operands, arguments and results, and no side effects: an operator that writes has
// *tied* results instead. `tied[r] == o` says that result r is operand o as the operator leaves
// it; the operand's own value is unchanged for its other users (who writes in place, and who
// copies first, is decided when the graph is lowered).
struct Node {
  NodeKind kind = NodeKind::kOp;
  Section section = Section::kForward;
  Symbol op;
  std::vector<ValueId> operands;
  std::vector<Arg> args;
  std::vector<ValueId> results;
  std::vector<int32_t> tied;  // per result: operand index or kNone; empty when nothing is tied
  int32_t origin = kNone;     // position of the recorded op this node came from; not structure

  int32_t tied_operand(size_t result) const { return tied.empty() ? kNone : tied[result]; }
};

struct Value {
  Type type;
  NodeId producer = kNone;  // kNone: an input of the graph
  int32_t index = 0;        // which result of the producer, or which input
};

// What the script asks of where an input lies (moai.hint): that the axes of a mesh which serve `axis`
// ("data", "sequence", "tensor" or "expert") cut its dim `dim`, or none of its dims where that is kNone.
struct Hint {
  int32_t input = 0;  // its position
  Symbol axis;
  int32_t dim = kNone;
};

// The ops of a step as one SSA graph over whole (global) tensors, in an order that respects use
// after definition.
class Graph {
 public:
  ValueId add_input(Type type);
  // Appends a node; gives it one new value per entry of `result_types`. Returns its id.
  NodeId add_node(Node node, std::vector<Type> result_types);
  // Makes room; worth it where the sizes are known beforehand.
  void reserve(size_t nodes, size_t values) {
    nodes_.reserve(nodes);
    values_.reserve(values);
  }
  int32_t add_number(NumberKind kind) {
    numbers_.push_back(kind);
    return static_cast<int32_t>(numbers_.size()) - 1;
  }

  const std::vector<Node>& nodes() const { return nodes_; }
  const std::vector<Value>& values() const { return values_; }
  const std::vector<ValueId>& inputs() const { return inputs_; }
  const std::vector<ValueId>& outputs() const { return outputs_; }
  const std::vector<NumberKind>& numbers() const { return numbers_; }
  const std::vector<Hint>& hints() const { return hints_; }
  const Node& node(NodeId id) const { return nodes_[id]; }
  Node& node(NodeId id) { return nodes_[id]; }
  const Value& value(ValueId id) const { return values_[id]; }
  const Type& type(ValueId id) const { return values_[id].type; }

  // What the step leaves behind; order is the caller's. A value may be an input.
  void set_outputs(std::vector<ValueId> outputs) { outputs_ = std::move(outputs); }
  void set_numbers(std::vector<NumberKind> numbers) { numbers_ = std::move(numbers); }
  void set_hints(std::vector<Hint> hints) { hints_ = std::move(hints); }

 private:
  std::vector<Node> nodes_;
  std::vector<Value> values_;
  std::vector<ValueId> inputs_;
  std::vector<ValueId> outputs_;
  std::vector<NumberKind> numbers_;
  std::vector<Hint> hints_;
};

// The text form. One node a line, in order:
//
//   graph(%0: f32[8,16], %1: f32[16,4]) numbers(f, i) {
//     %2: f32[8,4] = aten.mm(%0, %1)
//     %3@0: f32[8,4] = aten.add_.Tensor(%2, %0, n0)       # result tied to operand 0
//     %4: f32[4,4]{4,1} = view(%3, offset=n1)
//     return %3, %4
//   }
//
// After the numbers may stand hints, by the positions of inputs: `hints(1: tensor 0, 1: data whole)`.
// `!bw` before a node's op name marks Section::kBackward. `origin` is not printed. `#` starts a
// comment, spaces and line ends mean nothing. The arguments:
//
//   none  true  -3  1.0  inf  "text\n"  bf16              # absent, bool, int, double, string, dtype
//   [1,2]  [0.5, nan]  [true]  []  float[]  bool[]        # static lists; the empty ones keep their kind
//   %1  [%1, none]  tensor[]                              # operands
//   n0  [n0, n1]  number[]  host(n0, f64, wrapped)        # numbers of the step, host scalars
//   update(%0, %1, [4,4]{8,1}, offset=2)                  # the region's sizes and strides; of %1's dtype
//   aten.f[%1, %2]($1, $0)                                # operands in another order than arguments
//
// A name that is no plain word is quoted: `"my op"(%0)`.
std::string print(const Graph& graph);

// The line of one node.
std::string print(const Graph& graph, NodeId node);

// Inverse of print: `parse(print(g))` prints the same and has the same hash. Names of values are free
// (`%x`); those that print gave are kept.
// Throws Error(Phase::kGraph) naming line and column. The graph that comes back may still break a
// rule of the IR: see verify.
Graph parse(const std::string& text);

// Throws Error(Phase::kGraph) that points at the node when a rule of the IR is broken: use before
// definition, operand or number out of range, tied result of another type than its operand, a
// view that leaves its operand's extent (where the offset is static), an update whose region and
// source differ in sizes, wrong argument kinds of view and update, outputs that do not exist.
void verify(const Graph& graph);

// Structural hash: equal for graphs that compute the same by the same nodes from the same inputs (by
// position), whatever the order in which independent nodes were added. Numbers count by kind and by
// position, sizes count. `origin` does not, nor do nodes that no output needs. Computing a thing twice
// is not the same as once. The same on every host.
uint64_t hash(const Graph& graph);

// Whether argument `arg` of a node, an integer or a list of them, is made of sizes.
using IsSize = std::function<bool(const Node& node, size_t arg)>;

// As hash, but blind to sizes, strides and size-valued arguments: equal for two recordings of the
// same program at different sequence lengths or batch sizes. What it keeps of strides is their order
// and which are 0, so that a transpose is not a reshape. Without `is_size` every list of integers
// counts as sizes, and no integer alone.
uint64_t structure_hash(const Graph& graph, const IsSize& is_size = {});

}  // namespace moai::ir
