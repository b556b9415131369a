#include "plan/offload.h"

#include <algorithm>
#include <string>

#include "catch.h"
#include "compile/program.h"
#include "ir/error.h"
#include "ir/graph.h"
#include "ir/passes.h"
#include "ops/host_copies.h"
#include "plan/plan_file.h"
#include "plan/planner.h"
#include "run_program.h"

namespace moai::plan {
namespace {

constexpr int kLayers = 12;

// A step of training: layers of a product and a tanh, of which backward reads every activation, and an update
// of each weight.
ir::Graph layered(int batch, int width) {
  const std::string x = concat("f32[", batch, ",", width, "]"), w = concat("f32[", width, ",", width, "]");
  std::string inputs = concat("%x: ", x, ", %g: ", x), forward, backward, update, outputs, last = "%x",
              grad = "%g";
  for (int i = 0; i < kLayers; ++i) {
    inputs += concat(", %w", i, ": ", w);
    forward += concat("%m", i, ": ", x, " = aten.mm(", last, ", %w", i, ")\n");
    forward += concat("%t", i, ": ", x, " = aten.tanh(%m", i, ")\n");
    last = concat("%t", i);
  }
  for (int i = kLayers; i-- > 0;) {
    const std::string before = i > 0 ? concat("%t", i - 1) : "%x";
    backward += concat("%b", i, ": ", x, " = !bw aten.tanh_backward(", grad, ", %t", i, ")\n");
    backward += concat("%p", i, ": f32[", width, ",", batch, "]{1,", width, "} = !bw moai.permute(", before,
                       ", [1, 0])\n");
    backward += concat("%d", i, ": ", w, " = !bw aten.mm(%p", i, ", %b", i, ")\n");
    backward += concat("%q", i, ": ", w, "{1,", width, "} = !bw moai.permute(%w", i, ", [1, 0])\n");
    backward += concat("%c", i, ": ", x, " = !bw aten.mm(%b", i, ", %q", i, ")\n");
    grad = concat("%c", i);
    update += concat("%n", i, "@0: ", w, " = aten.sub_.Tensor(%w", i, ", %d", i, ", n0)\n");
    outputs += concat(i + 1 < kLayers ? ", " : "", "%n", i);
  }
  return ir::parse(
      concat("graph(", inputs, ") numbers(f) {\n", forward, backward, update, "return ", outputs, "\n}"));
}

// Values that forward makes and something behind it reads.
std::vector<ir::ValueId> kept_for_backward(const Step& step) {
  std::vector<ir::ValueId> all;
  for (size_t v = 0; v < step.base.size(); ++v) {
    const auto value = static_cast<ir::ValueId>(v);
    const auto producer = step.graph.value(value).producer;
    if (producer != ir::kNone && producer < step.roles.forward_end && step.base[v] == value &&
        step.last_use[v] >= step.roles.forward_end)
      all.push_back(value);
  }
  return all;
}

int count(const ir::Graph& graph, ir::Symbol op) {
  return static_cast<int>(std::count_if(graph.nodes().begin(), graph.nodes().end(),
                                        [&](const ir::Node& node) { return node.op == op; }));
}

// Tensor for tensor what an H100 can do, but for memory and the link to the host.
Cluster cluster_of(double memory_bytes, double host_bytes_per_s, double host_memory_bytes = 1e12) {
  return parse_cluster_json(concat(
      R"({"name": "one", "levels": [{"name": "none", "size": 1, "latency_s": 0, "bytes_per_s": 1e9}],
      "kinds": [{"like": "h100", "name": "small", "memory_bytes": )",
      static_cast<int64_t>(memory_bytes), R"(, "host_bytes_per_s": )", static_cast<int64_t>(host_bytes_per_s),
      R"(, "host_memory_bytes": )", static_cast<int64_t>(host_memory_bytes), "}]}"));
}

TEST_CASE("offload: what backward reads of forward is on the host in between") {
  const Step recorded = make_step(layered(64, 16));
  const Step away = make_step(recorded, {Recompute::kNone, Offload::kActivations});
  ir::verify(away.graph);
  const int copies = count(away.graph, ops::to_host());
  CHECK(copies == count(away.graph, ops::from_host()));
  // The last activations are wanted at once.
  CHECK(copies >= kLayers - 2);
  CHECK(copies < kLayers);
  int on_device = 0, on_host = 0;
  for (const auto value : kept_for_backward(away)) ++(away.on_host[value] ? on_host : on_device);
  CHECK(on_host == copies);
  CHECK(on_device == kLayers - copies);
  for (size_t n = 0; n < away.graph.nodes().size(); ++n) {
    if (ops::is_host_copy(away.graph.nodes()[n].op)) CHECK(away.time.repeats[n]);
  }
  CHECK(kept_for_backward(recorded).size() == kLayers);
}

TEST_CASE("offload: a step computes the same with activations on the host, in less of an arena") {
  const Step recorded = make_step(layered(64, 32));
  const auto arena = [](const ir::Graph& graph) {
    compile::Program program = compile::lower(ir::strided_views(graph), {});
    compile::plan_memory(program);
    compile::verify(program);
    return program.arena_bytes;
  };
  const std::vector<int64_t> numbers{0};
  for (const auto policy : {Recompute::kNone, Recompute::kFull}) {
    const Step here = make_step(recorded, {policy});
    const Step away = make_step(recorded, {policy, Offload::kActivations});
    ir::verify(away.graph);
    CHECK(compile::Meaning(ir::strided_views(away.graph), numbers).run() ==
          compile::Meaning(ir::strided_views(recorded.graph), numbers).run());
    CHECK(arena(away.graph) < arena(here.graph));
  }
}

TEST_CASE("offload: copies belong to the stretch of forward that used the value last") {
  const Step recorded = make_step(layered(64, 16));
  const Step away = make_step(recorded, {Recompute::kNone, Offload::kActivations});
  REQUIRE(away.stretches() > 2);
  for (size_t n = 0; n < away.graph.nodes().size(); ++n) {
    const ir::Node& node = away.graph.nodes()[n];
    if (node.op != ops::from_host()) continue;
    const auto sent = away.graph.value(node.operands[0]).producer;
    CHECK(away.stretch_of_node[n] == away.stretch_of_node[sent]);
    CHECK(away.is_weight_gradient[n] == false);
  }
  // What is recorded keeps its place, though nodes in between are new.
  const auto places = [](const Step& step) {
    std::vector<int32_t> all;
    for (size_t n = 0; n < step.graph.nodes().size(); ++n) {
      const ir::Node& node = step.graph.nodes()[n];
      if (node.op.str() == "aten.mm" || node.op.str() == "aten.tanh_backward")
        all.push_back(step.stretch_of_node[n]);
    }
    return all;
  };
  CHECK(places(away) == places(recorded));
}

TEST_CASE("offload: where memory binds a fast link is used, and a slow one is not") {
  const ir::Graph graph = layered(1 << 15, 1024);
  const double activation = 4.0 * 1024 * (1 << 15), weights = 4.0 * 1024 * 1024 * kLayers;
  const double tight = 9 * activation + 3 * weights;
  const Pins at_once = parse_pins("micro=1");
  const Candidate fast = plan_step(graph, cluster_of(tight, 4e11), at_once).best();
  REQUIRE(fast.fits);
  CHECK(fast.outer.offload == Offload::kActivations);
  CHECK(fast.outer.recompute == Recompute::kNone);
  CHECK(fast.bytes.host > 5 * activation);
  CHECK(fast.peak_bytes <= tight);
  CHECK(fast.layout.find("activations on the host") != std::string::npos);
  const Candidate slow = plan_step(graph, cluster_of(tight, 1e9), at_once).best();
  REQUIRE(slow.fits);
  CHECK(slow.outer.offload == Offload::kNone);
  CHECK(slow.outer.recompute != Recompute::kNone);
  // Where there is room nothing is sent, however fast the link is, and none of it is tried.
  const StepPlan roomy = plan_step(graph, cluster_of(1e11, 4e11), at_once);
  CHECK(roomy.best().outer.offload == Offload::kNone);
  for (const auto& candidate : roomy.candidates) CHECK(candidate.outer.offload == Offload::kNone);
  // Whoever says what to recompute has settled the rest.
  for (const auto& candidate :
       plan_step(graph, cluster_of(tight, 4e11), parse_pins("micro=1,recompute=full")).candidates)
    CHECK(candidate.outer.offload == Offload::kNone);
}

TEST_CASE("offload: what nothing else makes fit") {
  const ir::Graph graph = layered(1 << 15, 1024);
  const double activation = 4.0 * 1024 * (1 << 15), weights = 4.0 * 1024 * 1024 * kLayers;
  const Pins pins = parse_pins("micro=1");
  const auto planned = [&](double memory, double host_memory) {
    return plan_step(graph, cluster_of(memory, 5e10, host_memory), pins);
  };
  const Cluster without = cluster_of(7 * activation + 3 * weights, 0);
  REQUIRE_FALSE(plan_step(graph, without, pins).best().fits);
  const StepPlan found = planned(7 * activation + 3 * weights, 1e12);
  REQUIRE(found.best().fits);
  CHECK(found.best().outer.offload == Offload::kActivations);
  CHECK(found.best().spent.host > 0);
  // The host's memory is no better than the device's where there is none of it.
  CHECK_FALSE(planned(7 * activation + 3 * weights, activation).best().fits);
}

TEST_CASE("offload: a pin, and a saved plan, keep what they say") {
  const ir::Graph graph = layered(1 << 12, 256);
  const Cluster cluster = parse_cluster("h100:2");
  const StepPlan here = plan_step(graph, cluster, parse_pins("dp=2,micro=2"));
  const StepPlan away = plan_step(graph, cluster, parse_pins("dp=2,micro=2,offload=activations"));
  REQUIRE(away.best().fits);
  CHECK(here.best().outer.offload == Offload::kNone);
  CHECK(away.best().outer.offload == Offload::kActivations);
  CHECK(away.best().peak_bytes < here.best().peak_bytes);
  CHECK(away.best().bytes.host > 0);
  CHECK(here.best().bytes.host == 0);
  CHECK(away.best().spent.host > 0);

  const std::string text = save_plan(*away.step, away.best().outer, away.best().assignment);
  CHECK(text.find("\"offload\": \"activations\"") != std::string::npos);
  CHECK(save_plan(*here.step, here.best().outer, here.best().assignment).find("offload") ==
        std::string::npos);
  Pins saved;
  saved.saved = std::make_shared<const SavedPlan>(load_plan(text));
  const StepPlan again = plan_step(graph, cluster, saved);
  CHECK(again.best().outer.offload == Offload::kActivations);
  CHECK(again.best().peak_bytes == Approx(away.best().peak_bytes));
}

TEST_CASE("offload: in a pipeline each stage sends its own") {
  const ir::Graph graph = layered(1 << 12, 256);
  const Cluster cluster = parse_cluster("h100:4");
  const auto pins = [](const char* text) { return parse_pins(text); };
  const Candidate here = plan_step(graph, cluster, pins("pp=4,micro=8,order=1f1b,chunks=1")).best();
  const Candidate away =
      plan_step(graph, cluster, pins("pp=4,micro=8,order=1f1b,chunks=1,offload=activations")).best();
  REQUIRE((here.fits && away.fits));
  CHECK(away.bytes.activations < here.bytes.activations);
  CHECK(away.bytes.host > 0);
  CHECK(away.spent.host > 0);
}

TEST_CASE("offload: what cannot be is said") {
  CHECK(parse_pins("offload=none").offload == Offload::kNone);
  CHECK_FALSE(parse_pins("dp=2").offload.has_value());
  CHECK_THROWS_WITH(parse_pins("offload=states"), ContainsSubstring("would work: none, activations"));
  CHECK_THROWS_WITH(
      plan_step(layered(64, 16), cluster_of(1e10, 0), parse_pins("offload=activations")),
      ContainsSubstring("no link to the host is known") && ContainsSubstring("host_bytes_per_s"));
  CHECK_THROWS_WITH(
      load_plan(R"({"moai_plan": 1, "stages": 1, "chunks": 1, "micro_batches": 1, "order": "1f1b",
      "recompute": "none", "offload": "everything", "mesh": [], "splits": [], "inputs": [], "nodes": []})"),
      ContainsSubstring("`everything` is nothing that can lie on the host"));
}

}  // namespace
}  // namespace moai::plan
