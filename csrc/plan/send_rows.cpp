#include "plan/send_rows.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <utility>
#include <vector>

#include "ir/call_node.h"
#include "ir/error.h"
#include "ir/rewrite.h"
#include "ir/view.h"
#include "ir/view_nodes.h"
#include "ops/expert_rows.h"
#include "ops/routed_rows.h"

namespace moai::plan {

namespace {

using ir::Node;
using ir::NodeId;
using ir::ValueId;

// Of an expert, in each unit: with fewer, slots of whole numbers would be far more than rows.
constexpr double kLeastRows = 2.0 / 3;

// One sort whose rows grouped products multiply.
struct Mixture {
  NodeId sort = ir::kNone;
  ops::Slots slots;
  int64_t rows = 0;
  bool is_even = true;  // its products have as many experts each
  // What `assign_slots` made, in the new graph; kNone while nobody asked.
  ValueId ids = ir::kNone, came = ir::kNone, send = ir::kNone, left = ir::kNone;
};

bool is_product(const Node& node) { return node.op == ops::routed_rows().grouped_mm; }

// Units are all of the tokens' outermost factor: were they fewer, the batch could not be gone through in as
// many turns.
bool find_slots(const Frame& frame, ValueId ids, double capacity, Mixture* mixture) {
  const Dim& tokens = frame.value_dims[ids][0];
  ops::Slots& slots = mixture->slots;
  if (!mixture->is_even || slots.experts < 2 || tokens.empty() || frame.atoms.opaque(tokens[0])) return false;
  slots.units = frame.atoms.size(tokens[0]);
  const int64_t of_unit = mixture->rows / slots.units;
  const double even = static_cast<double>(of_unit) / static_cast<double>(slots.experts);
  if (slots.units < 2 || even < kLeastRows) return false;
  slots.each = std::min(static_cast<int64_t>(std::ceil(capacity * even)), of_unit);  // no expert has more
  return true;
}

// By sorted ids, the mixtures whose rows can be sent.
std::map<ValueId, Mixture> mixtures_of(const ir::Graph& graph, const Frame& frame, double capacity) {
  std::map<ValueId, Mixture> found;
  for (const Node& node : graph.nodes()) {
    if (!is_product(node)) continue;
    const ValueId ids = node.operands[2];
    Mixture& mixture = found[ids];
    const auto experts = std::get<int64_t>(node.args[3]);
    if (mixture.sort == ir::kNone) {
      mixture.sort = graph.value(ids).producer;
      mixture.rows = graph.type(ids).sizes[0];
      mixture.slots.experts = experts;
    }
    mixture.is_even = mixture.is_even && mixture.slots.experts == experts;
  }
  for (auto it = found.begin(); it != found.end();) {
    const bool can_be = find_slots(frame, it->first, capacity, &it->second);
    it = can_be ? std::next(it) : found.erase(it);
  }
  return found;
}

class Send {
 public:
  Send(const ir::Graph& graph, const Frame& frame, std::map<ValueId, Mixture> mixtures)
      : graph_(graph),
        frame_(frame),
        mixtures_(std::move(mixtures)),
        rewrite_(graph),
        mixture_of_(graph.values().size(), nullptr),
        in_slots_(graph.values().size(), ir::kNone) {}

  ir::Graph run() {
    for (NodeId n = 0; n < static_cast<NodeId>(graph_.nodes().size()); ++n) {
      at_ = n;
      const Node& node = graph_.node(n);
      Mixture* mixture = find_mixture(node);
      if (mixture != nullptr && n == mixture->sort) {
        Node sort = rewrite_.renamed(n);
        sort.args.emplace_back(mixture->slots.units);
        rewrite_.keep(n, std::move(sort));
      } else if (mixture != nullptr && is_product(node)) {
        multiply(n, *mixture);
      } else if (mixture != nullptr && takes_experts(node, *mixture)) {
        take_experts(n, *mixture);
      } else if (mixture != nullptr && adds_to_experts(node, *mixture)) {
        add_to_experts(n, *mixture);
      } else if (mixture != nullptr && is_done_in_slots(n)) {
        do_in_slots(n, *mixture);
      } else {
        for (const auto operand : node.operands) by_origin(operand);
        keep(n);
      }
    }
    return rewrite_.finish();
  }

 private:
  // The one whose rows a node reads, which is its results', too, as far as they have rows.
  Mixture* find_mixture(const Node& node) {
    Mixture* mixture = nullptr;
    for (const auto operand : node.operands) {
      if (frame_.own_order[operand] >= 0 && mixture_of_[operand] != nullptr) mixture = mixture_of_[operand];
    }
    if (node.op == ops::routed_rows().sort) {
      const auto it = mixtures_.find(node.results[0]);
      if (it != mixtures_.end()) mixture = &it->second;
    }
    for (const auto result : node.results) {
      if (frame_.own_order[result] >= 0) mixture_of_[result] = mixture;
    }
    return mixture;
  }

  bool is_in_slots_alone(ValueId value) const {
    return value != ir::kNone && in_slots_[value] != ir::kNone && rewrite_[value] == ir::kNone;
  }

  // Any op that treats rows alike, where some of them lie in slots alone. What has as many rows and no order
  // (a filled tensor) cannot be sent.
  bool is_done_in_slots(NodeId n) const {
    const Node& node = graph_.node(n);
    if (ops::is_routed_rows(node.op) || node.results.empty()) return false;
    const auto has_rows = [&](ValueId value) { return frame_.own_order[value] >= 0; };
    const int32_t rows = factor_of_rows(n);
    for (size_t o = 0; o < node.operands.size(); ++o) {
      if (node.operands[o] == ir::kNone || has_rows(node.operands[o])) continue;
      for (const auto& dim : frame_.rules[n].operands[o]) {
        if (std::find(dim.begin(), dim.end(), rows) != dim.end()) return false;
      }
    }
    return std::any_of(node.operands.begin(), node.operands.end(),
                       [&](ValueId value) { return is_in_slots_alone(value); }) &&
           std::all_of(node.results.begin(), node.results.end(), has_rows);
  }

  // Of a node that reads rows: the factor that they are; kNone of others.
  int32_t factor_of_rows(NodeId n) const {
    const Node& node = graph_.node(n);
    for (size_t o = 0; o < node.operands.size(); ++o) {
      const ValueId operand = node.operands[o];
      if (operand != ir::kNone && frame_.own_order[operand] >= 0)
        return frame_.rules[n].operands[o][dim_of_rows(operand)].back();
    }
    return ir::kNone;
  }

  Node made(ir::Symbol op, std::vector<ValueId> operands, const Mixture& mixture) const {
    const ops::Slots& slots = mixture.slots;
    return ir::call_node_like(graph_.node(at_), op, std::move(operands),
                              {slots.experts, slots.units, slots.each});
  }

  // The type with as many slots along `dim` as there were rows.
  ir::Type type_in_slots(ir::Type type, size_t dim, const Mixture& mixture) const {
    const int64_t rows = type.sizes[dim], slots = mixture.slots.count();
    for (size_t d = 0; d < type.sizes.size(); ++d) {
      if (d != dim && type.strides[d] >= type.strides[dim] * rows && type.strides[dim] > 0)
        type.strides[d] = type.strides[d] / rows * slots;
    }
    type.sizes[dim] = slots;
    return type;
  }

  size_t dim_of_rows(ValueId value) const { return static_cast<size_t>(frame_.own_order[value]); }

  void assign(Mixture& mixture) {
    if (mixture.ids != ir::kNone) return;
    const ValueId ids = by_origin(graph_.node(mixture.sort).results[0]);
    const auto slots = ir::Type::contiguous(ir::DType::kI64, {mixture.slots.count()});
    const auto rows = ir::Type::contiguous(ir::DType::kI64, {mixture.rows});
    const auto results =
        rewrite_.add(made(ops::expert_rows().assign, {ids}, mixture), {slots, slots, slots, rows});
    mixture.ids = results[0];
    mixture.came = results[1];
    mixture.send = results[2];
    mixture.left = results[3];
  }

  // A value in slots, sent there where nobody did.
  ValueId in_slots(ValueId value, Mixture& mixture) {
    ValueId& known = in_slots_[value];
    if (known != ir::kNone) return known;
    const size_t dim = dim_of_rows(value);
    const ir::Type type = type_in_slots(graph_.type(value), dim, mixture);
    // What turns rows that are there does so there.
    const Node& producer = graph_.node(graph_.value(value).producer);
    if (is_turn(producer))
      return known = turned(in_slots(producer.operands[0], mixture), std::get<ir::Dims>(producer.args[1]));
    return known = sent(ops::expert_rows().to_experts, by_origin(value), type, dim, mixture);
  }

  // Of a node that is done in slots: its rows there, and all else as it is.
  ValueId operand_in_slots(ValueId operand, Mixture& mixture) {
    if (operand == ir::kNone) return operand;
    return frame_.own_order[operand] < 0 ? rewrite_[operand] : in_slots(operand, mixture);
  }

  // A value as the graph has it, brought back where it lies in slots alone.
  ValueId by_origin(ValueId value) {
    if (value == ir::kNone) return value;
    if (!is_in_slots_alone(value)) return rewrite_[value];
    const Node& producer = graph_.node(graph_.value(value).producer);
    rewrite_.replace(value,
                     is_turn(producer)
                         ? turned(by_origin(producer.operands[0]), std::get<ir::Dims>(producer.args[1]))
                         : sent(ops::expert_rows().to_tokens, in_slots_[value], graph_.type(value),
                                dim_of_rows(value), *mixture_of_[value]));
    return rewrite_[value];
  }

  static bool is_turn(const Node& node) { return node.op.str() == "moai.permute"; }

  // A node as it was. What was sent and came back may lie otherwise than the graph says, and so do its views.
  void keep(NodeId n) {
    Node node = rewrite_.renamed(n);
    const ValueId old = graph_.node(n).operands.empty() ? ir::kNone : graph_.node(n).operands[0];
    const bool is_view = ir::step_of(node.op, node.args).has_value();
    if (is_view && old != ir::kNone && rewrite_.to().type(node.operands[0]) != graph_.type(old)) {
      rewrite_.replace(graph_.node(n).results[0], view(std::move(node)));
      return;
    }
    std::vector<ir::Type> types;
    for (size_t r = 0; r < node.results.size(); ++r)
      types.push_back(type_of(node, r, graph_.type(node.results[r])));
    rewrite_.keep(n, std::move(node), std::move(types));
  }

  // A tied result lies as its operand does.
  ir::Type type_of(const Node& node, size_t result, ir::Type otherwise) const {
    const int32_t tied = node.tied_operand(result);
    return tied == ir::kNone ? otherwise : rewrite_.to().type(node.operands[tied]);
  }

  // A view of what its operand is now.
  ValueId view(Node node) {
    const ir::ViewStep step = *ir::step_of(node.op, node.args);
    node.results.clear();
    ir::Type type;
    int64_t offset = 0;
    if (!ir::apply_steps(rewrite_.to().type(node.operands[0]), {step}, &type, &offset)) {
      node.operands[0] = copied(node.operands[0]);
      MOAI_ASSERT(ir::apply_steps(rewrite_.to().type(node.operands[0]), {step}, &type, &offset),
                  "no view of a contiguous value: ", ir::str(step));
    }
    return rewrite_.add(std::move(node), std::move(type));
  }

  ValueId copied(ValueId value) {
    const ir::Type& type = rewrite_.to().type(value);
    return rewrite_.add(
        ir::call_node_like(graph_.node(at_), ir::Symbol::intern("aten.clone"), {value}, {int64_t{0}}),
        ir::Type::contiguous(type.dtype, type.sizes));
  }

  ValueId turned(ValueId value, const ir::Dims& order) {
    return view(ir::call_node_like(graph_.node(at_), ir::Symbol::intern("moai.permute"), {value}, {order}));
  }

  // Rows one way or the other. The op wants them in the first dim.
  ValueId sent(ir::Symbol op, ValueId value, const ir::Type& type, size_t dim, Mixture& mixture) {
    assign(mixture);
    ir::Dims order{static_cast<int64_t>(dim)}, back(type.sizes.size());
    for (size_t d = 0; d < type.sizes.size(); ++d) {
      if (d != dim) order.push_back(static_cast<int64_t>(d));
    }
    ir::Dims sizes;
    for (size_t d = 0; d < order.size(); ++d) {
      sizes.push_back(type.sizes[order[d]]);
      back[order[d]] = static_cast<int64_t>(d);
    }
    const ValueId rows = dim == 0 ? value : turned(value, order);
    const ValueId by = op == ops::expert_rows().to_experts ? mixture.send : mixture.left;
    const ValueId out = rewrite_.add(made(op, {rows, by, mixture.came}, mixture),
                                     ir::Type::contiguous(type.dtype, std::move(sizes)));
    return dim == 0 ? out : turned(out, back);
  }

  // x[ids] or x[ids] += y, where x has something for each expert.
  bool is_by_expert(const Node& node, const Mixture& mixture) const {
    const auto* list = node.args.size() > 1 ? std::get_if<ir::OperandListRef>(&node.args[1]) : nullptr;
    if (list == nullptr || list->operands != std::vector<int32_t>{1}) return false;
    return node.operands[1] == graph_.node(mixture.sort).results[0] &&
           frame_.own_order[node.operands[0]] < 0 &&
           graph_.type(node.operands[0]).sizes[0] == mixture.slots.experts;
  }

  bool takes_experts(const Node& node, const Mixture& mixture) const {
    return node.op.str() == "aten.index.Tensor" && is_by_expert(node, mixture);
  }

  bool adds_to_experts(const Node& node, const Mixture& mixture) const {
    const std::string& op = node.op.str();
    const bool puts = op.rfind("aten.index_put", 0) == 0 || op.rfind("aten._index_put_impl", 0) == 0;
    return puts && node.operands.size() == 3 && is_by_expert(node, mixture) && node.args.size() > 3 &&
           std::get_if<bool>(&node.args[3]) != nullptr && std::get<bool>(node.args[3]) &&
           is_in_slots_alone(node.operands[2]) && dim_of_rows(node.operands[2]) == 0 &&
           graph_.type(node.operands[2]).sizes.size() == graph_.type(node.operands[0]).sizes.size();
  }

  void take_experts(NodeId n, Mixture& mixture) {
    const Node& node = graph_.node(n);
    const ir::Type type = type_in_slots(graph_.type(node.results[0]), 0, mixture);
    assign(mixture);
    in_slots_[node.results[0]] =
        rewrite_.add(made(ops::expert_rows().take, {rewrite_[node.operands[0]], mixture.ids}, mixture), type);
  }

  void add_to_experts(NodeId n, Mixture& mixture) {
    const Node& node = graph_.node(n);
    Node add = made(ops::expert_rows().add,
                    {rewrite_[node.operands[0]], mixture.ids, in_slots(node.operands[2], mixture)}, mixture);
    add.tied = node.tied;
    rewrite_.keep(n, std::move(add));
  }

  void multiply(NodeId n, Mixture& mixture) {
    const Node& node = graph_.node(n);
    assign(mixture);
    std::vector<ValueId> operands;
    for (const size_t o : {0, 1}) operands.push_back(operand_in_slots(node.operands[o], mixture));
    operands.push_back(mixture.ids);
    Node product = made(ops::expert_rows().mm, std::move(operands), mixture);
    product.args.emplace_back(mixture.rows);
    const ValueId result = node.results[0];
    if (frame_.own_order[result] < 0) {
      rewrite_.keep(n, std::move(product));
      return;
    }
    in_slots_[result] =
        rewrite_.add(std::move(product), type_in_slots(graph_.type(result), dim_of_rows(result), mixture));
  }

  void do_in_slots(NodeId n, Mixture& mixture) {
    const ops::Rule& rule = frame_.rules[n];
    Node node = graph_.node(n);
    const int32_t rows = factor_of_rows(n);
    for (auto& operand : node.operands) operand = operand_in_slots(operand, mixture);
    for (const auto& local : rule.local_args) {
      if (std::find(local.factors.begin(), local.factors.end(), rows) == local.factors.end()) continue;
      const auto scaled = [&](int64_t size) { return size / mixture.rows * mixture.slots.count(); };
      if (auto* list = std::get_if<ir::Dims>(&node.args[local.arg])) {
        (*list)[local.element] = scaled((*list)[local.element]);
      } else {
        node.args[local.arg] = scaled(std::get<int64_t>(node.args[local.arg]));
      }
    }
    if (ir::step_of(node.op, node.args)) {
      in_slots_[graph_.node(n).results[0]] = view(std::move(node));
      return;
    }
    std::vector<ir::Type> types;
    for (size_t r = 0; r < node.results.size(); ++r) {
      const ValueId result = node.results[r];
      types.push_back(type_of(node, r, type_in_slots(graph_.type(result), dim_of_rows(result), mixture)));
    }
    const std::vector<ValueId> results = std::exchange(node.results, {});
    const auto added = rewrite_.add(std::move(node), std::move(types));
    for (size_t r = 0; r < results.size(); ++r) in_slots_[results[r]] = added[r];
  }

  const ir::Graph& graph_;
  const Frame& frame_;
  std::map<ValueId, Mixture> mixtures_;
  ir::Rewrite rewrite_;
  NodeId at_ = 0;                     // of the old graph
  std::vector<Mixture*> mixture_of_;  // by old value that has rows
  std::vector<ValueId> in_slots_;     // by old value: the same in slots; kNone where it is not there
};

}  // namespace

ir::Graph send_rows(const ir::Graph& graph, const Frame& frame, double capacity) {
  return Send(graph, frame, mixtures_of(graph, frame, capacity)).run();
}

bool sends_rows(const ir::Graph& graph, const Frame& frame) { return !mixtures_of(graph, frame, 1).empty(); }

}  // namespace moai::plan
