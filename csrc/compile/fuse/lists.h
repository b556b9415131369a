#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "compile/fuse/emit.h"
#include "compile/fuse/kernel.h"
#include "ir/graph.h"

namespace moai::compile {

// Note [Fused lists]
// An optimizer's step is a chain of ops on lists of tensors, and each op goes through all parameters. Such a
// chain becomes one node, and one kernel goes through all tensors once, however many they are:
//
//   %3@0, %4@1 = moai.fused_lists("graph(…) {…}", [%0, %1], [%2], [n5], [n6, n7])
//
// Its first argument is what is done with one element of each list, as a graph: an input of it is [2] where
// the tensors' elements differ, and [] where there is one for a whole tensor (a step count), and its ops are
// the same ones on lists of one. Then come the lists, by input, and the numbers, by number; one that is the
// same for all tensors is a list of one. The results are the outputs' lists, one after the other; an output
// that was written in place is tied to the input that it began as. All lists are of the same sizes and
// strides, tensor by tensor, and of one dtype each.
//
// Before, a list whose tensors go on in different ops (parameter groups, whose gradients were clipped
// together) is parted; after, chains that compute the same, of which none needs another, become one: that is
// one launch for all groups.
//
// The kernel finds addresses and numbers in a table in device memory, a row for each tensor. A block has a
// chunk of one tensor at a time.

// Makes such nodes. Linear in the graph, times a bound.
ir::Graph fuse_lists(const ir::Graph& graph);
bool is_fused_lists(const ir::Node& node);

// A node of them taken apart.
struct FusedLists {
  ir::Graph graph;                            // of one element
  size_t tensors = 0;                         // in each list
  std::vector<std::vector<int32_t>> inputs;   // by input: operands of the node; one, or as many as tensors
  std::vector<std::vector<int32_t>> numbers;  // by number: of the step; likewise
  std::vector<std::vector<int32_t>> tied;     // by output and tensor: the operand, or kNone
};
FusedLists fused_lists(const ir::Node& node);

// The kernel of such a graph; nothing where one of its ops is none of list_ops.h, or a type is not computed.
std::optional<Kernel> build_list_kernel(const ir::Graph& graph);

// As `emit`. Its words: the table's address, and how many tensors there are.
std::string emit_lists(const Kernel& kernel, Target target);

// One tensor of each list.
struct ListRow {
  std::vector<int64_t> addresses;  // of inputs, then outputs
  std::vector<int64_t> numbers;    // their bits
  int64_t elements = 0;
};
constexpr int64_t kChunkElements = 65536;
// What the kernel is launched with; word 0 becomes the address of a copy of `table` on the device.
Launch launch_of_lists(const Kernel& kernel, const std::vector<ListRow>& rows);

}  // namespace moai::compile
