#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ir/graph.h"

namespace moai::ops {

// Note [Rules]
// A rule says what each dimension of a node's tensors is made of: an ordered list of *factors*, outermost
// first, as in einsum with compound dimensions. Every way to split the node follows from it. A factor is
// split by giving each of n parts a range of its indices; then
//
//   * an operand or a result that has the factor is sharded by it, but for operands that the rule wants
//     *replicated*: each part looks at all of them (where groups of rows end);
//   * an operand that lacks it is replicated, or, where the rule says that it is *additive*, partial: one
//     part has it and the others have zeros (a bias, which must be added once);
//   * a result that lacks it comes out as the rule's combination says: partial by a sum, a maximum …, or
//     the same on every part.
//
// A factor that sees another one through a *window* (the places of a convolution's result) splits that one
// too: what lacks the first and has the second is sharded by the second. So does one that *trades* for
// another (the experts that rows go to, for the tokens that they come from): the node itself sends rows from
// parts by the one to parts by the other.
//
// A dimension of size 1 has no factors.

// What the parts' results have to do with the whole, where the result lacks the factor that is split.
enum class Combine : uint8_t {
  kSum,
  kProduct,
  kMean,      // weighted by the parts' sizes
  kWeighted,  // the mean, weighted by the parts' next result
  kMax,
  kMin,
  kNorm2,  // the root of the sum of squares
  kAny,
  kAll,
  kSame,     // the result does not depend on the factor: every part has it
  kUnknown,  // cannot be told from the parts: the factor cannot be split
};

// How a local op learns where its part of a factor starts. `a` and `b` are the factor's `position_at` and
// `position_to`.
enum class Position : uint8_t {
  kNone,           // the part's place does not matter
  kLookup,         // operand a: indices; those of other parts give zeros, in the result's dims from b on
  kWrappedLookup,  // the same, where negative indices count from the end
  kScatter,        // operand a: rows that operand 0's go to, those of other parts nowhere; b: one to skip
  kTarget,         // operand a: classes; those of other parts are ignored, as argument b says of one class
  kDiagonal,       // argument a: a diagonal, which moves on by the start
  kDiagonalBack,   // argument a: a diagonal, which moves back by the start
  kQuery,          // argument a: whether a query sees earlier keys only; b: the mask that says it otherwise
  kOnlyPosition,   // the result is a function of the position alone: made whole, and cut
  kSampled,        // drawn by global index: the node is given its part (see compile/partition.h)
  kSeenIndex,      // operand a or result b: indices into what is seen, over the dims from there on
  kGroups,         // rows lie in groups that the data decide; the device's go from the offset before its part
};

// The chain of local ops and small all-reduces that an op becomes where its row is split.
enum class Exchange : uint8_t { kNone, kSoftmax, kLogSoftmax, kSoftmaxBackward, kLogSoftmaxBackward };

// What a place along a factor sees of another factor: `size` places, `dilation` apart, the first of them at
// `stride` times its own index, less `padding`.
struct Window {
  int32_t over = -1;  // the factor that is seen; -1: there is no window
  int64_t size = 1;
  int64_t stride = 1;
  int64_t padding = 0;
  int64_t dilation = 1;
  int32_t padding_arg = -1;  // where the op is told of its padding: a list, by dim of space or one for all
  int32_t dim = 0;           // of space
  int32_t dims = 1;          // of space, in all
  double outside = 0;        // what places beyond the edges count as
};

struct Factor {
  std::string name;  // as in the rule's line; for messages
  int64_t size = 1;
  // Must lie whole on every device.
  bool whole = false;
  // And so must, in every node, the dims that are made of it.
  bool indivisible = false;
  // The local op has to know where its part starts: indices are compared with a position along this
  // factor (a lookup in a table that is split, a range, a triangle).
  bool positional = false;
  Position position = Position::kNone;
  int32_t position_at = -1;
  int32_t position_to = -1;
  // The local op needs so many all-reduces of a number a row, over this factor, inside it (softmax: the
  // maximum and the sum).
  int32_t exchanges = 0;
  Exchange exchange = Exchange::kNone;
  int32_t exchange_dim = 0;  // of operand 0: the row
  // What the factor is slid over. A part needs its halo of that: see Note [Halos] in plan/halo.h.
  Window window;
  // The factor that it trades for; -1: for none. See Note [Rows by expert] in ops/expert_rows.h.
  int32_t trades = -1;
};

// By dim: the factors that it is made of, outermost first.
using TensorFactors = std::vector<std::vector<int32_t>>;

// A static argument that is a size, or where something begins: locally `times` the product of the local
// sizes of the factors.
struct LocalArg {
  int32_t arg = 0;
  int32_t element = -1;  // of a list; -1 for an integer
  std::vector<int32_t> factors;
  int64_t times = 1;
};

// What a kernel works on beside operands and results: so many bytes for each combination of indices of the
// factors.
struct Scratch {
  double bytes = 0;
  std::vector<int32_t> factors;
};

struct Rule {
  std::vector<Factor> factors;
  std::vector<TensorFactors> operands;  // by operand of the node
  std::vector<TensorFactors> results;
  std::vector<std::vector<Combine>> combine;  // by result and factor; read where the result lacks the factor
  std::vector<int32_t> additive;              // operands that are added once
  std::vector<int32_t> replicated;            // operands that every part has whole, whatever their factors
  // Gradients of a mean over all factors: the local op would divide them by its part's size, and takes them
  // times what part of the whole that is.
  std::vector<int32_t> averaged;
  // Sets of operands in which the node is linear together: Partial(sum) of all of them, the others
  // replicated, gives Partial(sum) results.
  std::vector<std::vector<int32_t>> linear;
  std::vector<LocalArg> local_args;
  std::vector<Scratch> scratch;
  double flops = 0;       // of the whole node; a multiply-add counts two
  bool known = false;     // some family has the op; otherwise every dim is whole
  bool free = false;      // moves no data: a view
  std::string why_whole;  // for reports, where factors that others would split are whole

  // Whether `factor` may be split at all.
  bool splittable(int32_t factor) const;
  // The factor that a tensor is sharded by where `factor` is split: itself, or what it sees. -1: it has
  // neither.
  int32_t sharded_by(const TensorFactors& tensor, int32_t factor) const;
};

// The rule of a node of a verified graph whose views are canonical. An op that no family knows gets one
// with every dim whole: right numbers, never free. Throws Error(Phase::kPlan) naming the op when an entry
// contradicts the node's shapes.
Rule rule_of(const ir::Graph& graph, ir::NodeId node);

// The ops that have rules, without `aten.` and without the `_` of in-place ones; sorted.
std::vector<std::string> ops_with_rules();

// How many bytes the node reads and writes, whole; 0 for views.
double bytes_moved(const ir::Graph& graph, ir::NodeId node, const Rule& rule);

}  // namespace moai::ops
