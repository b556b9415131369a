#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "compile/fuse/regroup.h"
#include "ir/graph.h"

namespace moai::compile {

// Note [Losses in chunks]
// The logits of a language model, their log-probabilities and both gradients are the largest values of a
// step: a row for each token, a column for each word. No row needs another one. What is made of them is
// either narrow (the gradient of the hidden states, a row for each token) or a sum over the rows (the loss,
// the gradients of the head's weight and bias). So the ops that make and read such *wide* values go over the
// rows in chunks, forward and backward together: logits of a chunk, its loss, its gradient, and what that
// gives to the rest; then the next chunk takes the same memory. The whole stands where the last of these ops
// did, when all that they need is there, the loss's own gradient included, so that nothing is computed twice.
//
// A mean is by the weight of all targets, which is known from the targets alone and computed before.

// How a chunk takes an operand: whole, or the rows that are its own, which are the operand's dims
// [first_dim, end_dim).
struct Taken {
  bool by_rows = false;
  size_t first_dim = 0;
  size_t end_dim = 1;
};

struct Given {
  enum class Kind : uint8_t {
    kRows,        // each row gives its own, of sizes `rest`
    kTransposed,  // the same, seen with columns first
    kSum,         // what the rows make together
    kMean,        // a sum that is still to be divided by the weight of all targets
  };
  Kind kind = Kind::kRows;
  ir::Dims rest;
};

// A node that goes over the rows.
struct RowNode {
  ir::NodeId id = ir::kNone;
  std::vector<ir::Arg> args;  // for a chunk, whose values have the rows as one dim
  std::vector<Taken> operands;
  std::vector<Given> results;
  bool is_cast = false;  // of a sum that is kept in f32 anyway, to f32
};

struct RowGroup {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t widest_bytes = 0;    // of one of its wide values
  std::vector<RowNode> nodes;  // in the graph's order
};

// The ops around a log-softmax over the columns that can go over its rows in chunks. Nothing where that would
// save no memory.
std::optional<RowGroup> find_row_group(const ir::Graph& graph, const Readers& readers, ir::NodeId softmax);

// The stride of the rows where these dims are one: nothing where they lie otherwise.
std::optional<int64_t> stride_of_rows(const ir::Type& type, const Taken& taken);

// A group's value: whether the group's node gives it, and how.
class Gives {
 public:
  Gives(const ir::Graph& graph, const RowGroup& group);
  // Null for values of others.
  const Given* operator[](ir::ValueId value) const;

 private:
  const ir::Graph& graph_;
  std::vector<const RowNode*> nodes_;  // by node
};

}  // namespace moai::compile
