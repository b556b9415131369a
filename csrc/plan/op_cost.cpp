#include "plan/op_cost.h"

#include <algorithm>

#include "ops/expert_rows.h"
#include "ops/host_copies.h"
#include "plan/halo.h"

namespace moai::plan {

namespace {

// One tensor of a node on its way between parts and what they see, along one axis.
struct HaloCopy {
  size_t axis;
  double bytes;     // of what one device sees
  double gathered;  // of what all give
};

// Calls `use` for each such copy that there is: none where no part sees another's places.
template <typename Use>
void for_halos(const ir::Graph& graph, const Frame& frame, const ir::Node& node, const ops::Rule& rule,
               const std::vector<Dim>& factors, const Option& option, const Mesh& mesh, const Use& use) {
  const auto size = [&](int32_t factor, size_t first) {
    int64_t product = 1;
    for (size_t k = first; k < factors[factor].size(); ++k) product *= frame.atoms.size(factors[factor][k]);
    return product;
  };
  for (size_t a = 0; a < option.choices.size(); ++a) {
    const AxisChoice& choice = option.choices[a];
    if (choice.kind != AxisChoice::Kind::kFactor) continue;
    const ops::Window& window = rule.factors[choice.factor].window;
    if (window.over < 0) continue;
    const Halo halo(window, size(window.over, 0), size(window.over, 1), size(choice.factor, 0),
                    size(choice.factor, 1), mesh.axes[a].size);
    const auto along = [&](const std::vector<ops::TensorFactors>& tensors,
                           const std::vector<ir::ValueId>& values, const std::vector<Placement>& placements,
                           int64_t given) {
      for (size_t t = 0; t < tensors.size() && given > 0; ++t) {
        if (rule.sharded_by(tensors[t], choice.factor) != window.over) continue;
        const double bytes =
            local_bytes(graph.type(values[t]), leaf_sizes(frame, values[t]), placements[t], mesh);
        const int64_t own = halo.own(halo.parts() - 1).length;  // no part has more
        const double place = bytes / static_cast<double>(own);
        use({a, place * static_cast<double>(halo.most_seen()), place * static_cast<double>(given)});
      }
    };
    along(rule.operands, node.operands, option.operands, halo.all_given());
    along(rule.results, node.results, option.results, halo.all_returned());
  }
}

bool trades(const ops::Rule& rule, const AxisChoice& choice) {
  return choice.kind == AxisChoice::Kind::kFactor && rule.factors[choice.factor].trades >= 0;
}

// Of a node that sends rows to experts or back: of those in slots on one device. 0 where none are sent.
double sent_bytes(const ir::Graph& graph, const Frame& frame, ir::NodeId id, const Option& option,
                  const Mesh& mesh) {
  const ir::Node& node = graph.node(id);
  if (std::none_of(option.choices.begin(), option.choices.end(),
                   [&](const AxisChoice& choice) { return trades(frame.rules[id], choice); }))
    return 0;
  const bool leaves = node.op == ops::expert_rows().to_tokens;
  const ir::ValueId value = leaves ? node.operands[0] : node.results[0];
  const Placement& placement = leaves ? option.operands[0] : option.results[0];
  return local_bytes(graph.type(value), leaf_sizes(frame, value), placement, mesh);
}

double moving_seconds(const DeviceKind& device, double bytes) {
  return bytes / (device.memory_bytes_per_s * device.memory_efficiency);
}

class Cost {
 public:
  Cost(const ir::Graph& graph, const Frame& frame, ir::NodeId id, const Option& option, const Mesh& mesh)
      : graph_(graph),
        frame_(frame),
        id_(id),
        node_(graph.node(id)),
        rule_(frame.rules[id]),
        factors_(frame.node_factors[id]),
        option_(option),
        mesh_(mesh) {}

  OpCost all() const {
    OpCost cost;
    if (rule_.free) return cost;
    const DeviceKind& device = mesh_.cluster->device(0);
    if (ops::is_host_copy(node_.op)) {
      cost.host = moved(node_.operands[0], option_.operands[0]) / device.host_bytes_per_s;
      return cost;
    }
    double bytes = 0;
    for (size_t o = 0; o < node_.operands.size(); ++o) bytes += moved(node_.operands[o], option_.operands[o]);
    for (size_t r = 0; r < node_.results.size(); ++r) bytes += moved(node_.results[r], option_.results[r]);
    const bool attends = node_.op.str().find("scaled_dot_product") != std::string::npos;
    const double rate =
        device.flops(multiplied(attends)) * (attends ? device.attention_efficiency : device.gemm_efficiency);
    (attends ? cost.attention : cost.product) = rate > 0 ? flops() * share() / rate : 0;
    const double sent = sent_bytes(graph_, frame_, id_, option_, mesh_);
    bytes += 2 * sent;  // put in another order on each side
    cost.memory = moving_seconds(device, bytes);
    cost.overhead = device.op_overhead_s;
    cost.exchange = exchange_seconds() + halo_seconds(device) + (sent > 0 ? trade_seconds(sent) : 0);
    return cost;
  }

 private:
  // The type of what is multiplied. A product's last operand of real numbers is a factor (its first may be a
  // bias, and integers say where groups end). Attention's first is one (the last of its backward are sums of
  // rows, in fp32).
  ir::DType multiplied(bool attends) const {
    if (node_.operands.empty()) return ir::DType::kF32;
    size_t o = attends ? 0 : node_.operands.size() - 1;
    while (o > 0 && ir::is_integer(graph_.type(node_.operands[o]).dtype)) --o;
    return graph_.type(node_.operands[o]).dtype;
  }

  // Of the frame's sizes, which may be a part of what the rule was made for.
  double flops() const {
    double flops = rule_.flops;
    for (size_t f = 0; f < factors_.size(); ++f) {
      double size = 1;
      for (const auto atom : factors_[f]) size *= static_cast<double>(frame_.atoms.size(atom));
      if (size > 0) flops *= size / static_cast<double>(rule_.factors[f].size);
    }
    return flops;
  }

  // Of the work, on the device with the largest part.
  double share() const {
    double share = 1;
    for (size_t a = 0; a < option_.choices.size(); ++a) {
      const AxisChoice& choice = option_.choices[a];
      if (choice.kind == AxisChoice::Kind::kFactor)
        share *= largest_share(frame_.atoms.size(factors_[choice.factor][choice.leaf]), mesh_.axes[a].size);
    }
    return share;
  }

  double moved(ir::ValueId value, const Placement& placement) const {
    return local_bytes(graph_.type(value), leaf_sizes(frame_, value), placement, mesh_);
  }

  // The small all-reduces inside an op whose row is split: a number in fp32 for each row.
  double exchange_seconds() const {
    double total = 0;
    for (size_t a = 0; a < option_.choices.size(); ++a) {
      const auto& choice = option_.choices[a];
      if (choice.kind != AxisChoice::Kind::kFactor || rule_.factors[choice.factor].exchanges == 0) continue;
      const ir::ValueId value = node_.results[0];
      const double element = static_cast<double>(ir::element_bytes(graph_.type(value).dtype));
      const double row = largest_share(rule_.factors[choice.factor].size, mesh_.axes[a].size) *
                         static_cast<double>(rule_.factors[choice.factor].size);
      const double bytes = moved(value, option_.results[0]) / element / row * 4;
      total += rule_.factors[choice.factor].exchanges *
               plan::seconds(*mesh_.cluster, Collective::kAllReduce, mesh_.axes[a].group, bytes);
    }
    return total;
  }

  // Gathering halos, and putting together what is seen: it is read and written once more. So are results that
  // lie as what is seen.
  double halo_seconds(const DeviceKind& device) const {
    double total = 0;
    for_halos(graph_, frame_, node_, rule_, factors_, option_, mesh_, [&](const HaloCopy& copy) {
      total +=
          plan::seconds(*mesh_.cluster, Collective::kAllGather, mesh_.axes[copy.axis].group, copy.gathered) +
          moving_seconds(device, 2 * copy.bytes) + 2 * device.op_overhead_s;
    });
    return total;
  }

  // Of rows to their experts, or back: `bytes` on each device.
  double trade_seconds(double bytes) const {
    double total = 0;
    for (size_t a = 0; a < option_.choices.size(); ++a) {
      if (!trades(rule_, option_.choices[a])) continue;
      total += plan::seconds(*mesh_.cluster, Collective::kAllToAll, mesh_.axes[a].group,
                             bytes * mesh_.axes[a].size);
    }
    return total;
  }

  const ir::Graph& graph_;
  const Frame& frame_;
  ir::NodeId id_;
  const ir::Node& node_;
  const ops::Rule& rule_;
  const std::vector<Dim>& factors_;
  const Option& option_;
  const Mesh& mesh_;
};

}  // namespace

double OpCost::seconds() const { return std::max(product + attention, memory) + overhead + exchange + host; }

OpCost cost_of(const ir::Graph& graph, const Frame& frame, ir::NodeId node, const Option& option,
               const Mesh& mesh) {
  return Cost(graph, frame, node, option, mesh).all();
}

OpCost cost_of_adding(const ir::Graph& graph, const Frame& frame, ir::ValueId value,
                      const Placement& placement, const Mesh& mesh) {
  constexpr double kTouched = 3;  // both are read, the sum is written
  const DeviceKind& device = mesh.cluster->device(0);
  const double bytes = local_bytes(graph.type(value), leaf_sizes(frame, value), placement, mesh);
  OpCost cost;
  cost.memory = moving_seconds(device, kTouched * bytes);
  cost.overhead = device.op_overhead_s;
  return cost;
}

double scratch_bytes_of(const ir::Graph& graph, const Frame& frame, ir::NodeId node, const Option& option,
                        const Mesh& mesh) {
  const auto& factors = frame.node_factors[node];
  double total = 0;
  for_halos(graph, frame, graph.node(node), frame.rules[node], factors, option, mesh,
            [&](const HaloCopy& copy) { total += copy.bytes + copy.gathered; });
  total += 2 * sent_bytes(graph, frame, node, option, mesh);
  for (const auto& scratch : frame.rules[node].scratch) {
    double bytes = scratch.bytes;
    for (const auto f : scratch.factors) {
      for (const auto atom : factors[f]) bytes *= static_cast<double>(frame.atoms.size(atom));
      for (size_t a = 0; a < option.choices.size(); ++a) {
        const AxisChoice& choice = option.choices[a];
        if (choice.kind == AxisChoice::Kind::kFactor && choice.factor == f)
          bytes *= largest_share(frame.atoms.size(factors[f][choice.leaf]), mesh.axes[a].size);
      }
    }
    total += bytes;
  }
  return total;
}

bool is_contraction(const ir::Graph& graph, ir::NodeId node, const ops::Rule& rule) {
  constexpr double kMany = 8;
  double elements = 0;
  for (const auto value : graph.node(node).operands)
    elements = std::max(elements, static_cast<double>(graph.type(value).numel()));
  return rule.flops > kMany * elements;
}

}  // namespace moai::plan
