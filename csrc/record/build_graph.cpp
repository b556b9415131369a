#include <algorithm>
#include <unordered_map>

#include "record/hint.h"
#include "record/trace.h"

namespace moai::record {

namespace {

using ir::ValueId;

class Builder {
 public:
  Builder(ir::Graph& graph, std::vector<ValueId>& values, std::vector<ValueId> inputs)
      : graph_(graph), values_(values), inputs_(std::move(inputs)) {}

  void add(const TraceNode& call, int32_t origin) {
    origin_ = origin;
    section_ = call.section;
    ir::Node node;
    node.op = call.op->name;
    node.args = call.args;
    std::vector<ValueId> bases;  // by use
    for (const auto& use : call.uses) {
      bases.push_back(base_of(use));
      node.operands.push_back(view_of(use, bases.back()));
    }
    std::vector<ir::Type> results;
    for (const auto& write : call.writes) {
      const auto& use = call.uses[write.use];
      results.push_back(use.resized != nullptr ? use.resized->type : use.view->type);
      node.tied.push_back(write.use);
    }
    fresh_types(call.returns, &results);
    if (!node.tied.empty()) node.tied.resize(results.size(), ir::kNone);
    node.origin = origin;
    node.section = section_;
    const ir::NodeId id = graph_.add_node(std::move(node), results);
    const std::vector<ValueId> made = graph_.node(id).results;  // copied: updates move the nodes
    for (size_t r = 0; r < made.size(); ++r) {
      ValueId value = made[r];
      if (r < call.writes.size())
        value = put_back(call.uses[call.writes[r].use], bases[call.writes[r].use], value);
      values_.push_back(value);
    }
  }

 private:
  static void fresh_types(const std::vector<ReturnSpec>& returns, std::vector<ir::Type>* types) {
    for (const auto& spec : returns) {
      if (spec.kind == ReturnSpec::Kind::kFresh) types->push_back(spec.layout->type);
      if (spec.kind == ReturnSpec::Kind::kList) fresh_types(spec.list, types);
    }
  }

  ir::Node bare(ir::NodeKind kind, const char* name) const {
    ir::Node node;
    node.kind = kind;
    node.op = ir::Symbol::intern(name);
    node.origin = origin_;
    node.section = section_;
    return node;
  }

  ValueId base_of(const TensorUse& use) {
    if (use.resized != nullptr || use.ref == kUndefined) {
      const auto& type = (use.resized != nullptr ? use.resized : use.storage)->type;
      return graph_.node(graph_.add_node(bare(ir::NodeKind::kOp, "moai.undefined"), {type})).results[0];
    }
    return is_input(use.ref) ? inputs_[input_of(use.ref)] : values_[use.ref];
  }

  // Equal layouts of a storage and of a tensor over it mean offset 0: nothing else fits.
  static bool is_whole(const TensorUse& use) { return use.resized != nullptr || use.view == use.storage; }

  ValueId view_of(const TensorUse& use, ValueId base) {
    if (is_whole(use)) return base;
    ir::Node node = bare(ir::NodeKind::kView, "view");
    node.operands = {base};
    node.args = {ir::NumberRef{use.offset_number}};
    return graph_.node(graph_.add_node(std::move(node), {use.view->type})).results[0];
  }

  ValueId put_back(const TensorUse& use, ValueId base, ValueId written) {
    if (is_whole(use)) return written;
    ir::Node node = bare(ir::NodeKind::kUpdate, "update");
    node.operands = {base, written};
    node.args = {use.view->type.sizes, use.view->type.strides, ir::NumberRef{use.offset_number}};
    return graph_.node(graph_.add_node(std::move(node), {graph_.type(base)})).results[0];
  }

  ir::Graph& graph_;
  std::vector<ValueId>& values_;
  std::vector<ValueId> inputs_;
  int32_t origin_ = 0;
  ir::Section section_ = ir::Section::kForward;
};

}  // namespace

TraceNode::TraceNode() = default;

TraceNode::~TraceNode() {
  std::vector<std::unique_ptr<TraceNode>> open = std::move(next);
  while (!open.empty()) {
    auto node = std::move(open.back());
    open.pop_back();
    for (auto& child : node->next) open.push_back(std::move(child));
    node->next.clear();
  }
}

std::unique_ptr<TraceEnd> make_trace(const TraceNode& last, const std::vector<const Layout*>& inputs,
                                     const std::vector<bool>& donated,
                                     const std::vector<std::pair<int32_t, const Hint*>>& hints) {
  static uint64_t next_id = 0;  // under the recorder's lock
  std::vector<const TraceNode*> calls;
  for (const TraceNode* node = &last; node->op != nullptr; node = node->parent) calls.push_back(node);
  std::reverse(calls.begin(), calls.end());

  auto end = std::make_unique<TraceEnd>();
  end->trace = std::make_shared<engine::Trace>();
  end->trace->id = ++next_id;
  end->trace->donated = donated;
  ir::Graph& graph = end->trace->graph;
  std::vector<ValueId> input_values;
  for (const Layout* layout : inputs) input_values.push_back(graph.add_input(layout->type));
  std::vector<ir::Hint> hints_by_input;
  for (const auto& [input, hint] : hints) {
    for (ir::Hint one : hint->of_dims) {
      one.input = input;
      hints_by_input.push_back(one);
    }
  }
  graph.set_hints(std::move(hints_by_input));
  std::vector<ir::NumberKind> numbers;
  auto lines = std::make_shared<std::vector<std::string>>();
  Builder builder(graph, end->values, std::move(input_values));
  for (const TraceNode* call : calls) {
    numbers.insert(numbers.end(), call->number_kinds.begin(), call->number_kinds.end());
    lines->push_back(call->where);
    builder.add(*call, static_cast<int32_t>(lines->size()) - 1);
  }
  graph.set_numbers(std::move(numbers));
  end->trace->lines = std::move(lines);
  graph.set_outputs(end->values);  // all: which are kept is another question at each launch
  end->trace->structure = ir::structure_hash(graph, [&](const ir::Node& node, size_t arg) {
    if (node.kind != ir::NodeKind::kOp || node.origin == ir::kNone) return false;
    const auto& is_size = calls[node.origin]->op->is_size;
    return arg < is_size.size() && is_size[arg];
  });
  return end;
}

}  // namespace moai::record
