#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "ir/error.h"
#include "ir/passes.h"
#include "ir/rewrite.h"
#include "ir/view.h"

namespace moai::ir {

namespace {

class Canonicaliser {
 public:
  Canonicaliser(const Graph& graph, const std::vector<int64_t>& numbers)
      : graph_(graph), numbers_(numbers), rewrite_(graph), whole_(graph.values().size()) {
    for (const ValueId output : graph.outputs()) whole_[output].is_output = true;
  }

  Graph run() {
    for (size_t i = 0; i < graph_.nodes().size(); ++i) {
      const auto id = static_cast<NodeId>(i);
      if (graph_.node(id).kind != NodeKind::kView || !replaced(graph_.node(id))) rewrite_.keep(id);
    }
    return rewrite_.finish();
  }

 private:
  // What a value is a view of, through all views whose offsets are known.
  struct Whole {
    ValueId value = kNone;  // kNone: it is no view
    int64_t offset = 0;
    bool is_output = false;
  };

  std::optional<int64_t> known_offset(const Node& view) const {
    const Arg& offset = view.args[0];
    if (const auto* number = std::get_if<NumberRef>(&offset)) {
      if (static_cast<size_t>(number->index) < numbers_.size()) return numbers_[number->index];
    }
    return static_offset(offset, graph_.type(view.results[0]), graph_.type(view.operands[0]));
  }

  bool replaced(const Node& node) {
    const std::optional<int64_t> offset = known_offset(node);
    if (!offset) return false;
    const ValueId result = node.results[0];
    const Type& view = graph_.type(result);
    const Whole& of = whole_[node.operands[0]];
    Whole& whole = whole_[result];
    whole.value = of.value == kNone ? node.operands[0] : of.value;
    whole.offset = of.offset + *offset;

    const Type& base = graph_.type(whole.value);
    std::optional<std::vector<ViewStep>> steps = factor_view(base, view, whole.offset);
    if (!steps) {
      if (base.dtype != view.dtype)
        whole = {kNone, 0, whole.is_output};  // offsets count other elements there
      return false;
    }
    if (steps->empty() && view == base && !whole.is_output) {
      rewrite_.replace(result, rewrite_[whole.value]);
    } else {
      rewrite_.replace(result, add_steps(*steps, node, base, rewrite_[whole.value]));
    }
    return true;
  }

  ValueId add_steps(std::vector<ViewStep>& steps, const Node& view, const Type& base, ValueId value) {
    if (steps.empty()) steps.push_back({ViewStep::Kind::kReshape, base.sizes});
    Type type = base;
    for (size_t i = 0; i < steps.size(); ++i) {
      if (i + 1 == steps.size()) {
        type = graph_.type(view.results[0]);
      } else {
        int64_t offset = 0;
        Type from = std::move(type);
        const bool applied = apply_steps(from, {steps[i]}, &type, &offset);
        MOAI_ASSERT(applied, "step ", str(steps[i]), " of ", from.str());
      }
      value = rewrite_.add(step(steps[i], view, value), type);
    }
    return value;
  }

  Node step(ViewStep& step, const Node& view, ValueId operand) const {
    Node node;
    node.section = view.section;
    node.origin = view.origin;
    node.operands = {operand};
    node.args = {OperandRef{0}};
    switch (step.kind) {
      case ViewStep::Kind::kReshape: node.op = reshape_; break;
      case ViewStep::Kind::kPermute: node.op = permute_; break;
      case ViewStep::Kind::kExpand: node.op = expand_; break;
      case ViewStep::Kind::kSlice:
        node.op = slice_;
        node.args.insert(node.args.end(), step.dims.begin(), step.dims.end());
        return node;
    }
    node.args.emplace_back(std::move(step.dims));
    return node;
  }

  const Graph& graph_;
  const std::vector<int64_t>& numbers_;
  Rewrite rewrite_;
  std::vector<Whole> whole_;  // values of the old graph
  const Symbol slice_ = Symbol::intern("moai.slice");
  const Symbol reshape_ = Symbol::intern("moai.reshape");
  const Symbol permute_ = Symbol::intern("moai.permute");
  const Symbol expand_ = Symbol::intern("moai.expand");
};

}  // namespace

Graph canonicalise_views(const Graph& graph, const std::vector<int64_t>& numbers) {
  return Canonicaliser(graph, numbers).run();
}

}  // namespace moai::ir
