#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "ir/error.h"
#include "ir/graph.h"
#include "ir/words.h"

namespace moai::ir {

namespace {

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

// As Type::bytes plus an offset, but false where the sum leaves 64 bits.
bool bytes_up_to(const Type& type, int64_t offset, int64_t* bytes) {
  int64_t last = offset;
  bool fits = true;
  for (size_t i = 0; i < type.sizes.size(); ++i) {
    if (type.sizes[i] == 0) {
      *bytes = 0;
      return true;
    }
    int64_t step = 0;
    fits = fits && !__builtin_mul_overflow(type.sizes[i] - 1, type.strides[i], &step) &&
           !__builtin_add_overflow(last, step, &last);
  }
  return fits && last < kMax && !__builtin_mul_overflow(last + 1, element_bytes(type.dtype), bytes);
}

// The product of the sizes that are not 0 must fit too: contiguous strides are made of it.
bool elements_fit(const Type& type) {
  int64_t elements = 1;
  for (const int64_t size : type.sizes) {
    if (__builtin_mul_overflow(elements, std::max<int64_t>(size, 1), &elements)) return false;
  }
  return true;
}

bool any_negative(const Dims& dims) {
  for (const int64_t dim : dims) {
    if (dim < 0) return true;
  }
  return false;
}

class Verifier {
 public:
  explicit Verifier(const Graph& graph) : graph_(graph) {}

  void run() {
    for (size_t i = 0; i < graph_.inputs().size(); ++i) {
      if (!owns(graph_.inputs()[i], kNone, i)) throw graph_error("input ", i, " is no input value");
      type(graph_.inputs()[i]);
    }
    for (const Hint& hint : graph_.hints()) {
      const bool is_input = hint.input >= 0 && static_cast<size_t>(hint.input) < graph_.inputs().size();
      if (!is_input) throw graph_error("a hint is of input ", hint.input, ", which there is not");
      const Type& type = graph_.type(graph_.inputs()[hint.input]);
      if (hint.dim < kNone || hint.dim >= static_cast<int32_t>(type.sizes.size()))
        throw graph_error("a hint is of dim ", hint.dim, " of ", type.str());
    }
    for (size_t id = 0; id < graph_.nodes().size(); ++id) {
      id_ = static_cast<NodeId>(id);
      node(graph_.node(id_));
    }
    for (const ValueId output : graph_.outputs()) {
      if (!exists(output)) throw graph_error("output %", output, " does not exist");
    }
  }

 private:
  template <typename... Parts>
  static Error graph_error(const Parts&... parts) {
    return Error(Phase::kGraph, concat(parts...));
  }

  template <typename... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    throw graph_error(parts...).detail(concat("at node ", id_, ": ", print(graph_, id_)));
  }

  bool exists(ValueId id) const { return id >= 0 && static_cast<size_t>(id) < graph_.values().size(); }
  bool owns(ValueId id, NodeId producer, size_t index) const {
    return exists(id) && graph_.value(id).producer == producer &&
           graph_.value(id).index == static_cast<int32_t>(index);
  }

  void type(ValueId id) const {
    const Type& type = graph_.type(id);
    const char* what = element_bytes(type.dtype) == 0             ? "an unknown dtype"
                       : type.sizes.size() != type.strides.size() ? "another number of strides than of sizes"
                       : any_negative(type.sizes)                 ? "a negative size"
                       : any_negative(type.strides)               ? "a negative stride"
                                                                  : nullptr;
    int64_t bytes = 0;
    if (!what && !(elements_fit(type) && bytes_up_to(type, 0, &bytes)))
      what = "more bytes than 64 bits count";
    if (!what) return;
    if (graph_.value(id).producer == kNone) throw graph_error("input %", id, " has ", what);
    fail("%", id, " has ", what);
  }

  void node(const Node& node) const {
    for (const ValueId operand : node.operands) {
      if (!exists(operand)) fail("operand %", operand, " does not exist");
      if (graph_.value(operand).producer >= id_) fail("%", operand, " is used before it is defined");
    }
    for (size_t r = 0; r < node.results.size(); ++r) {
      if (!owns(node.results[r], id_, r)) fail("result ", r, " is no value of this node");
      type(node.results[r]);
    }
    for (size_t i = 0; i < node.args.size(); ++i) arg(node, i);
    tied(node);
    switch (node.kind) {
      case NodeKind::kOp:
        if (node.op.str().empty()) fail("the op has no name");
        break;
      case NodeKind::kView: view(node); break;
      case NodeKind::kUpdate: update(node); break;
    }
  }

  void operand_in_range(const Node& node, size_t arg, int32_t operand) const {
    if (operand < 0 || static_cast<size_t>(operand) >= node.operands.size()) {
      fail("argument ", arg, " names operand ", operand, " of ", node.operands.size());
    }
  }

  void number_in_range(size_t arg, int32_t number) const {
    if (number < 0 || static_cast<size_t>(number) >= graph_.numbers().size()) {
      fail("argument ", arg, " names number n", number, " of ", graph_.numbers().size());
    }
  }

  void arg(const Node& node, size_t i) const {
    const Arg& arg = node.args[i];
    if (const auto* ref = std::get_if<OperandRef>(&arg)) {
      operand_in_range(node, i, ref->operand);
    } else if (const auto* list = std::get_if<OperandListRef>(&arg)) {
      for (const int32_t operand : list->operands) {
        if (operand != kNone) operand_in_range(node, i, operand);
      }
    } else if (const auto* ref = std::get_if<NumberRef>(&arg)) {
      number_in_range(i, ref->index);
    } else if (const auto* list = std::get_if<NumberListRef>(&arg)) {
      for (const int32_t number : list->indices) number_in_range(i, number);
    } else if (const auto* host = std::get_if<HostScalarArg>(&arg)) {
      number_in_range(i, host->number);
      if (element_bytes(host->dtype) == 0) fail("argument ", i, " has an unknown dtype");
    }
  }

  void tied(const Node& node) const {
    if (node.tied.empty()) return;
    if (node.kind != NodeKind::kOp) fail("only results of ops are tied");
    if (node.tied.size() != node.results.size()) {
      fail("ties for ", node.tied.size(), " of ", node.results.size(), " results");
    }
    for (size_t r = 0; r < node.tied.size(); ++r) {
      const int32_t tie = node.tied[r];
      if (tie == kNone) continue;
      if (tie < 0 || static_cast<size_t>(tie) >= node.operands.size()) {
        fail("result ", r, " is tied to operand ", tie, " of ", node.operands.size());
      }
      const Type& wanted = graph_.type(node.operands[tie]);
      const Type& found = graph_.type(node.results[r]);
      if (found != wanted) fail("result ", r, " is ", found.str(), ", but tied to ", wanted.str());
      for (size_t earlier = 0; earlier < r; ++earlier) {
        if (node.tied[earlier] == tie) fail("results ", earlier, " and ", r, " are tied to one operand");
      }
    }
  }

  // A region must stay inside its holder; where the offset is a number of the step, at offset 0 at least.
  void region(const Type& holder, const Type& region, const Arg& offset) const {
    if (const auto* number = std::get_if<NumberRef>(&offset)) {
      if (graph_.numbers()[number->index] != NumberKind::kInt)
        fail("the offset n", number->index, " is no integer");
    }
    const auto* fixed = std::get_if<int64_t>(&offset);
    if (fixed && *fixed < 0) fail("the offset ", *fixed, " is negative");
    int64_t bytes = 0;
    if (!bytes_up_to(region, fixed ? *fixed : 0, &bytes)) fail("the region ends beyond what 64 bits count");
    if (bytes > holder.bytes()) fail("the region ends at byte ", bytes, " of ", holder.bytes());
  }

  void view(const Node& node) const {
    if (node.operands.size() != 1 || node.results.size() != 1) fail("a view has one operand and one result");
    if (node.args.size() != 1) fail("a view has one argument, its offset");
    if (!is_offset(node.args[0])) fail("the offset of a view is an integer or a number");
    region(graph_.type(node.operands[0]), graph_.type(node.results[0]), node.args[0]);
  }

  void update(const Node& node) const {
    if (node.operands.size() != 2 || node.results.size() != 1)
      fail("an update has two operands and one result");
    const auto* sizes = node.args.size() == 3 ? std::get_if<Dims>(&node.args[0]) : nullptr;
    const auto* strides = node.args.size() == 3 ? std::get_if<Dims>(&node.args[1]) : nullptr;
    if (!sizes || !strides || !is_offset(node.args[2]))
      fail("an update has arguments sizes, strides, offset");
    const Type& whole = graph_.type(node.operands[0]);
    const Type& source = graph_.type(node.operands[1]);
    if (graph_.type(node.results[0]) != whole) {
      fail("the result is ", graph_.type(node.results[0]).str(), ", but updates ", whole.str());
    }
    if (source.sizes != *sizes) {
      fail("the region is ", Type::contiguous(source.dtype, *sizes).str(), ", but its source ", source.str());
    }
    if (strides->size() != sizes->size()) fail("the region has another number of strides than of sizes");
    if (any_negative(*strides)) fail("the region has a negative stride");
    region(whole, {source.dtype, *sizes, *strides}, node.args[2]);
  }

  const Graph& graph_;
  NodeId id_ = kNone;
};

}  // namespace

void verify(const Graph& graph) { Verifier(graph).run(); }

}  // namespace moai::ir
