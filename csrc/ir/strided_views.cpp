#include "ir/error.h"
#include "ir/passes.h"
#include "ir/rewrite.h"
#include "ir/view_nodes.h"

namespace moai::ir {

namespace {

// Strides of dims of one element mean nothing, and none do where there are no elements.
bool is_same_view(const Type& a, const Type& b) {
  if (a.sizes != b.sizes) return false;
  if (a.numel() == 0) return true;
  for (size_t d = 0; d < a.sizes.size(); ++d) {
    if (a.sizes[d] > 1 && a.strides[d] != b.strides[d]) return false;
  }
  return true;
}

Node like(const Node& node, NodeKind kind, ValueId operand, std::vector<Arg> args) {
  Node made;
  made.kind = kind;
  made.section = node.section;
  made.origin = node.origin;
  made.operands = {operand};
  made.args = std::move(args);
  return made;
}

}  // namespace

Graph strided_views(const Graph& graph) {
  Rewrite rewrite(graph);
  for (size_t i = 0; i < graph.nodes().size(); ++i) {
    const auto id = static_cast<NodeId>(i);
    const Node& node = graph.node(id);
    const auto step = step_of(node.op, node.args);
    if (!step) {
      rewrite.keep(id);
      continue;
    }
    const ValueId operand = rewrite[node.operands[0]];
    const Type base = rewrite.to().type(operand);
    Type type;
    int64_t offset = 0;
    if (apply_steps(base, {*step}, &type, &offset)) {
      const Type& said = graph.type(node.results[0]);
      if (is_same_view(type, said)) type = said;
      rewrite.replace(node.results[0], rewrite.add(like(node, NodeKind::kView, operand, {offset}), type));
      continue;
    }
    MOAI_ASSERT(step->kind == ViewStep::Kind::kReshape, "no such view: ", print(graph, id));
    Node copy = like(node, NodeKind::kOp, operand, {OperandRef{0}, int64_t{0}});
    copy.op = Symbol::intern("aten.clone");
    const Type dense = Type::contiguous(base.dtype, base.sizes);
    const ValueId copied = rewrite.add(std::move(copy), dense);
    const Type shaped = Type::contiguous(base.dtype, step->dims);
    rewrite.replace(node.results[0], rewrite.add(like(node, NodeKind::kView, copied, {int64_t{0}}), shaped));
  }
  return rewrite.finish();
}

Graph fixed_offsets(const Graph& graph, const std::vector<int64_t>& numbers,
                    const std::vector<bool>& varies) {
  Rewrite rewrite(graph);
  for (size_t i = 0; i < graph.nodes().size(); ++i) {
    Node node = rewrite.renamed(static_cast<NodeId>(i));
    const int32_t arg = offset_arg(node);
    const auto* number = arg == kNone ? nullptr : std::get_if<NumberRef>(&node.args[arg]);
    if (number != nullptr && !varies[number->index]) node.args[arg] = numbers[number->index];
    rewrite.keep(static_cast<NodeId>(i), std::move(node));
  }
  return rewrite.finish();
}

}  // namespace moai::ir
