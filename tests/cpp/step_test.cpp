#include "plan/step.h"

#include <algorithm>
#include <string>

#include "catch.h"
#include "ir/error.h"
#include "ir/graph.h"
#include "plan/breakdown.h"
#include "plan/op_cost.h"
#include "plan/planner.h"

namespace moai::plan {
namespace {

constexpr int kLayers = 3;

// A step of training: residual layers of a tanh and an affine product, with an optimizer that counts steps
// for each weight. Backward looks at each gradient as rows, twice, as linear layers of a batch of sequences
// do.
ir::Graph trained(int batch, int width) {
  const std::string x = concat("f32[", batch, ",", width, "]"), w = concat("f32[", width, ",", width, "]"),
                    b = concat("f32[", width, "]"), flat = concat("f32[", batch * width, "]");
  std::string inputs = concat("%x: ", x), forward, backward, update, outputs;
  std::string last = "%i", grad = "%g";
  forward += concat("%i: ", x, " = aten.tanh(%x)\n");
  for (int i = 0; i < kLayers; ++i) {
    inputs += concat(", %w", i, ": ", w, ", %b", i, ": ", b, ", %s", i, ": f32[]");
    forward += concat("%t", i, ": ", x, " = aten.tanh(", last, ")\n");
    forward += concat("%y", i, ": ", x, " = aten.addmm(%b", i, ", %t", i, ", %w", i, ", n0, n0)\n");
    forward += concat("%z", i, ": ", x, " = aten.add.Tensor(", last, ", %y", i, ", n0)\n");
    last = concat("%z", i);
  }
  backward += concat("%g: ", x, " = !bw aten.mul.Tensor(", last, ", ", last, ")\n");
  for (int i = kLayers; i-- > 0;) {
    backward += concat("%f", i, ": ", flat, " = !bw moai.reshape(", grad, ", [", batch * width, "])\n");
    backward += concat("%r", i, ": ", x, " = !bw moai.reshape(%f", i, ", [", batch, ",", width, "])\n");
    backward += concat("%p", i, ": f32[", width, ",", batch, "]{1,", width, "} = !bw moai.permute(%t", i,
                       ", [1, 0])\n");
    backward += concat("%d", i, ": ", w, " = !bw aten.mm(%p", i, ", %r", i, ")\n");
    backward +=
        concat("%e", i, ": f32[1,", width, "] = !bw aten.sum.dim_IntList(%r", i, ", [0], true, none)\n");
    if (i == 0) break;
    backward += concat("%q", i, ": ", w, "{1,", width, "} = !bw moai.permute(%w", i, ", [1, 0])\n");
    backward += concat("%c", i, ": ", x, " = !bw aten.mm(%r", i, ", %q", i, ")\n");
    backward += concat("%h", i, ": ", x, " = !bw aten.tanh_backward(%c", i, ", %t", i, ")\n");
    backward += concat("%a", i, "@0: ", x, " = !bw aten.add_.Tensor(", grad, ", %h", i, ", n0)\n");
    grad = concat("%a", i);
  }
  for (int i = 0; i < kLayers; ++i) {
    update += concat("%n", i, "@0: f32[] = aten.add_.Scalar(%s", i, ", n0, n0)\n");
    update += concat("%k", i, ": f32[", width, "] = moai.reshape(%e", i, ", [", width, "])\n");
    update += concat("%u", i, "@0: ", w, " = aten.addcmul_(%w", i, ", %d", i, ", %n", i, ", n0)\n");
    update += concat("%v", i, "@0: ", b, " = aten.addcmul_(%b", i, ", %k", i, ", %n", i, ", n0)\n");
    outputs += concat(i > 0 ? ", " : "", "%n", i, ", %u", i, ", %v", i);
  }
  return ir::parse(
      concat("graph(", inputs, ") numbers(f) {\n", forward, backward, update, "return ", outputs, "\n}"));
}

// The values that another stretch than their own reads in backward, by base.
std::vector<ir::ValueId> crossing(const Step& step) {
  std::vector<ir::ValueId> all;
  for (auto n = step.roles.forward_end; n < static_cast<ir::NodeId>(step.graph.nodes().size()); ++n) {
    for (const auto operand : step.graph.node(n).operands) {
      const auto producer = step.graph.value(operand).producer;
      if (producer == ir::kNone || producer < step.roles.forward_end) continue;
      if (step.stretch_of_node[producer] != step.stretch_of_node[n]) all.push_back(operand);
    }
  }
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return all;
}

TEST_CASE("step: of backward one value crosses a cut, whatever looks at it, and nothing of the optimizer") {
  const Step step = make_step(trained(64, 16));
  REQUIRE(step.stretches() >= kLayers);
  const auto values = crossing(step);
  CHECK(values.size() == kLayers - 1);
  for (const auto value : values) {
    INFO(ir::print(step.graph, step.graph.value(value).producer));
    const auto producer = step.graph.value(value).producer;
    const std::string op = step.graph.node(producer).op.str();
    CHECK((op == "aten.mul.Tensor" || op == "aten.add_.Tensor"));
    CHECK(step.roles.in_loop(producer));
  }
  for (size_t i = 0; i < step.graph.inputs().size(); ++i) {
    const auto value = step.graph.inputs()[i];
    if (step.graph.type(value).sizes.empty()) CHECK(step.stretch_of_input[i] != ir::kNone);
  }
}

TEST_CASE("step: adding up gradients takes time, in every turn but the first") {
  const Step step = make_step(trained(64, 512));
  const Cluster cluster = parse_cluster("h100:1");
  const Mesh mesh = Mesh::make(cluster, {1});
  double gradients = 0, added = 0;
  for (size_t v = 0; v < step.graph.values().size(); ++v) {
    const auto value = static_cast<ir::ValueId>(v);
    if (!step.is_sum(value)) continue;
    gradients += static_cast<double>(step.graph.type(value).bytes());
    added += cost_of_adding(step.graph, step.frame, value, {{}}, mesh).memory;
  }
  CHECK(gradients == kLayers * 4.0 * (512 * 512 + 512));
  const auto& device = cluster.device(0);
  CHECK(added == Approx(3 * gradients / (device.memory_bytes_per_s * device.memory_efficiency)));
  for (const int32_t turns : {1, 2, 8}) {
    Terms terms;
    terms.memory_bytes = 1e12;
    terms.turns = turns;
    const Frame turn = frame_of_turn(step.frame, step.time, turns);
    const Assignment plan = assign(step, turn, mesh, terms);
    double alone = 0;
    for (size_t n = 0; n < step.graph.nodes().size(); ++n) {
      const auto id = static_cast<ir::NodeId>(n);
      alone +=
          cost_of(step.graph, turn, id, plan.nodes[n], mesh).seconds() * (step.time.repeats[n] ? turns : 1);
    }
    const double adding = (turns - 1) * (added + 2 * kLayers * device.op_overhead_s);
    CHECK(plan.seconds == Approx(alone + adding));
    double told = 0;
    for (const auto& op : breakdown(step, turn, mesh, terms, plan).ops) told += op.seconds;
    CHECK(told == Approx(plan.seconds));
  }
}

TEST_CASE("step: experts lie along the axes that are named") {
  const Pins pins = parse_pins("dp=2,experts=tp+sp,sp=2,tp=4,pp=1");
  REQUIRE(pins.axes.size() == 3);
  for (const auto& axis : pins.axes)
    CHECK(((axis.splits & role_bit(Role::kExpert)) != 0) == (axis.name != "dp"));
  for (const char* wrong :
       {"dp=2,experts=tp", "tp=2,experts=", "tp=2,experts=tp+", "copies=2,experts=copies", "tp=1,experts=tp"})
    CHECK_THROWS_WITH(parse_pins(wrong), ContainsSubstring("needs axes that are pinned in parts"));
}

}  // namespace
}  // namespace moai::plan
