#include "compile/local/partition.h"

#include <limits>
#include <unordered_map>
#include <utility>

#include "compile/local/convert.h"
#include "compile/local/local_builder.h"
#include "compile/local/local_op.h"
#include "compile/local/parts.h"
#include "compile/local/verify_local_graphs.h"
#include "ir/error.h"
#include "ops/traits.h"

namespace moai::compile {

namespace {

using ir::ValueId;
using plan::Placement;
using plan::Split;
using K = Split::Kind;

std::vector<int32_t> sizes_of(const plan::Mesh& mesh) {
  std::vector<int32_t> sizes;
  for (const auto& axis : mesh.axes) sizes.push_back(axis.size);
  return sizes;
}

// The whole step, and how it is split.
struct Plan {
  const ir::Graph& graph;
  const plan::Frame& frame;
  const plan::Mesh& mesh;
  const plan::Assignment& assignment;

  const Placement& produced(ValueId value) const { return assignment.placement(graph, value); }

  // How a value of a node is reduced, by axis.
  std::vector<Reduction> reductions(ValueId value) const {
    const auto& v = graph.value(value);
    if (v.producer == ir::kNone) return {};
    const auto& choices = assignment.nodes[v.producer].choices;
    std::vector<Reduction> all(choices.size());
    for (size_t a = 0; a < choices.size(); ++a) {
      if (choices[a].kind != plan::AxisChoice::Kind::kFactor) continue;
      const auto atom = frame.node_factors[v.producer][choices[a].factor][choices[a].leaf];
      all[a].how = frame.rules[v.producer].combine[v.index][choices[a].factor];
      all[a].size = frame.atoms.size(atom);
      for (size_t outer = 0; outer <= a; ++outer) {
        const bool same = choices[outer].kind == choices[a].kind &&
                          choices[outer].factor == choices[a].factor &&
                          choices[outer].leaf == choices[a].leaf;
        if (same) all[a].axes.push_back(static_cast<int64_t>(outer));
      }
    }
    return all;
  }

  // Where an output must lie.
  Placement wanted(ValueId output) const {
    const ValueId input = plan::updated_input(graph, output);
    if (input != ir::kNone) return produced(input);
    Placement placement = produced(output);
    for (auto& split : placement) {
      if (split.kind != K::kShard) split = {};
    }
    return placement;
  }
};

class Device {
 public:
  Device(const Plan& plan, Place place)
      : plan_(plan), place_(std::move(place)), at_(plan.graph.values().size()) {}

  ir::Graph run() {
    const ir::Graph& whole = plan_.graph;
    b_.graph().set_numbers(whole.numbers());
    for (const auto input : whole.inputs()) {
      ir::Type type = local_type(input);
      at_[input].push_back({plan_.produced(input), b_.graph().add_input(std::move(type))});
    }
    const ir::NodeId last_raising = find_last_raising();
    if (last_raising == ir::kNone) write_barrier();
    for (size_t n = 0; n < whole.nodes().size(); ++n) {
      write(static_cast<ir::NodeId>(n));
      if (static_cast<ir::NodeId>(n) == last_raising) write_barrier();
    }
    std::vector<ValueId> outputs;
    for (const auto output : whole.outputs())
      outputs.push_back(as_it_is_kept(output, bring(output, plan_.wanted(output))));
    b_.graph().set_outputs(std::move(outputs));
    return std::move(b_.graph());
  }

 private:
  ir::Type local_type(ValueId value) const {
    const ir::Type& whole = plan_.graph.type(value);
    const auto parts = parts_of(place_, plan::leaf_sizes(plan_.frame, value), plan_.produced(value));
    ir::Dims sizes;
    for (const auto& dim : parts) {
      sizes.push_back(1);
      for (const auto& part : dim) sizes.back() *= part.length;
    }
    return sizes == whole.sizes ? whole : dense_like(whole, std::move(sizes));
  }

  ir::NodeId find_last_raising() const {
    const auto& nodes = plan_.graph.nodes();
    for (size_t n = nodes.size(); n-- > 0;) {
      if (nodes[n].kind == ir::NodeKind::kOp && ops::traits(nodes[n].op).can_raise)
        return static_cast<ir::NodeId>(n);
    }
    return ir::kNone;
  }

  // No device may write over an input while another can still fail: see runtime/run.h.
  void write_barrier() {
    ir::Node node;
    node.op = ir::Symbol::intern("moai.barrier");
    b_.graph().add_node(std::move(node), {});
  }

  void write(ir::NodeId id) {
    const ir::Node& node = plan_.graph.node(id);
    const plan::Option& option = plan_.assignment.nodes[id];
    b_.set_source(node);
    std::vector<ValueId> operands;
    for (size_t o = 0; o < node.operands.size(); ++o) {
      const ValueId there = bring(node.operands[o], option.operands[o]);
      const bool is_memory = node.kind != ir::NodeKind::kOp && o == 0;  // which a strided region is of
      operands.push_back(is_memory ? as_it_is_kept(node.operands[o], there)
                                   : as_kernels_take_it(node, node.operands[o], there));
    }
    const LocalOp op{plan_.graph, node,  plan_.frame.rules[id], plan_.frame, plan_.frame.node_factors[id],
                     option,      place_};
    const auto results = write_local_op(b_, op, std::move(operands));
    for (size_t r = 0; r < results.size(); ++r)
      at_[node.results[r]].push_back({option.results[r], results[r]});
  }

  // The value as `to` has it: converted from where it lies at the least cost, if it does not lie there yet.
  ValueId bring(ValueId value, const Placement& to) {
    const auto sizes = plan::leaf_sizes(plan_.frame, value);
    double least = std::numeric_limits<double>::infinity();
    const std::pair<Placement, ValueId>* best = nullptr;
    for (const auto& there : at_[value]) {
      if (there.first == to) return there.second;
      const double cost = plan::convert_seconds(plan_.graph.type(value), sizes, there.first, to, plan_.mesh);
      if (cost >= least) continue;
      least = cost;
      best = &there;
    }
    if (best == nullptr) {
      const auto producer = plan_.graph.value(value).producer;
      Error error(Phase::kCompile,
                  concat("the plan reduces %", value, " otherwise than by a sum, and asks for a sum"));
      if (producer != ir::kNone) error.detail(ir::print(plan_.graph, producer));
      throw Error(error);
    }
    const ValueId converted = convert(b_, place_, best->second, plan_.graph.type(value), sizes, best->first,
                                      to, plan_.reductions(value), weight_of(value));
    at_[value].push_back({to, converted});
    return converted;
  }

  // A part cut out of a dense value is not dense. Views and pointwise ops do not mind; others may count on
  // what they were recorded with, and get a copy, one for all of them.
  ValueId as_kernels_take_it(const ir::Node& node, ValueId whole, ValueId local) {
    const bool minds = node.op.str().rfind("moai.", 0) != 0 && !ops::traits(node.op).pointwise;
    if (!minds || !plan_.graph.type(whole).is_dense() || b_.type(local).is_dense()) return local;
    const auto [it, is_new] = dense_.emplace(local, ir::kNone);
    if (is_new) {
      const auto order = memory_order(plan_.graph.type(whole));
      it->second = b_.permute(b_.contiguous(b_.permute(local, order)), inverse(order));
    }
    return it->second;
  }

  // An output is a part of a value in memory: dense, in the order that the whole has.
  ValueId as_it_is_kept(ValueId whole, ValueId local) {
    const ir::Type& type = plan_.graph.type(whole);
    if (!type.is_dense()) return local;
    const auto order = memory_order(type);
    const ValueId ordered = b_.permute(local, order);
    if (b_.type(ordered).is_contiguous()) return local;
    return b_.permute(b_.contiguous(ordered), inverse(order));
  }

  // What a mean over parts is weighted by: the node's next result, as the node left it.
  ValueId weight_of(ValueId value) const {
    const auto& v = plan_.graph.value(value);
    if (v.producer == ir::kNone) return ir::kNone;
    const auto& results = plan_.graph.node(v.producer).results;
    const auto next = static_cast<size_t>(v.index) + 1;
    return next < results.size() ? at_[results[next]].front().second : ir::kNone;
  }

  const Plan& plan_;
  Place place_;
  LocalBuilder b_;
  // By value of the whole graph: where it lies, and which local value that is; as it was produced first.
  std::vector<std::vector<std::pair<Placement, ValueId>>> at_;
  std::unordered_map<ValueId, ValueId> dense_;  // by local value that is not: its copy that is
};

}  // namespace

LocalGraphs partition(const ir::Graph& graph, const plan::Frame& frame, const plan::Mesh& mesh,
                      const plan::Assignment& assignment) {
  MOAI_ASSERT(assignment.nodes.size() == graph.nodes().size(), "the plan is another graph's");
  MOAI_ASSERT(assignment.inputs.size() == graph.inputs().size(), "the plan is another graph's");
  const Plan plan{graph, frame, mesh, assignment};
  const auto sizes = sizes_of(mesh);
  int32_t devices = 1;
  for (const auto size : sizes) devices *= size;
  LocalGraphs out;
  std::unordered_map<std::string, std::shared_ptr<const ir::Graph>> known;
  for (int32_t d = 0; d < devices; ++d) {
    auto local = std::make_shared<const ir::Graph>(Device(plan, {sizes, coordinates_of(sizes, d)}).run());
    out.graphs.push_back(known.emplace(ir::print(*local), std::move(local)).first->second);
  }
  for (const auto output : graph.outputs()) out.outputs.push_back(plan.wanted(output));
  verify(out.graphs, sizes);
  return out;
}

}  // namespace moai::compile
