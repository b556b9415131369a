// What is made once for equal layers, against the same made for each node.
#include "catch.h"
#include "ir/error.h"
#include "ir/graph.h"
#include "plan/live_bytes.h"
#include "plan/moves.h"
#include "plan/random_plan.h"
#include "plan/rules_of_graph.h"
#include "plan/timeline.h"

using namespace moai;

namespace {

// Equal layers, between two that are not: other sizes, and another dim that is summed.
std::string layered(int layers) {
  std::string inputs = "%x: f32[64,32], %first: f32[32,64]";
  std::string body = "%l: f32[64,64] = aten.mm(%x, %first)\n", last = "%l";
  for (int i = 0; i < layers; ++i) {
    inputs += concat(", %a", i, ": f32[64,128], %b", i, ": f32[128,64]");
    body += concat("%h", i, ": f32[64,128] = aten.mm(", last, ", %a", i, ")\n");
    body += concat("%g", i, ": f32[64,128] = aten.mul.Tensor(%h", i, ", %h", i, ")\n");
    body += concat("%o", i, ": f32[64,64] = aten.mm(%g", i, ", %b", i, ")\n");
    body += concat("%r", i, ": f32[64,64] = aten.add.Tensor(", last, ", %o", i, ", n", i, ")\n");
    body += concat("%s", i, ": f32[64,1] = aten.sum.dim_IntList(%r", i, ", [1], true, none)\n");
    body += concat("%t", i, ": f32[64,64] = aten.sub.Tensor(%r", i, ", %s", i, ", n", i, ")\n");
    last = concat("%t", i);
  }
  body += concat("%u: f32[1,64] = aten.sum.dim_IntList(", last, ", [0], true, none)\n");
  body += concat("%v: f32[64,64] = aten.sub.Tensor(", last, ", %u, n0)\n");
  std::string numbers;
  for (int i = 0; i < layers; ++i) numbers += i == 0 ? "f" : ", f";
  return concat("graph(", inputs, ") numbers(", numbers, ") {\n", body, "return %v\n}");
}

}  // namespace

TEST_CASE("rules_of_graph: a rule for all that is alike, and each node's own") {
  const ir::Graph graph = ir::parse(layered(9));
  const auto rules = plan::rules_of_graph(graph);
  REQUIRE(rules.size() == graph.nodes().size());
  // Of a layer six (in one the difference of rows), of the rest the first product and the last sum and
  // difference.
  CHECK(rules.distinct() == 9);
  for (size_t n = 0; n < rules.size(); ++n) {
    const ops::Rule own = ops::rule_of(graph, static_cast<ir::NodeId>(n));
    CHECK(rules[n].operands == own.operands);
    CHECK(rules[n].results == own.results);
    CHECK(rules[n].combine == own.combine);
    CHECK(rules[n].linear == own.linear);
    CHECK(rules[n].flops == own.flops);
    REQUIRE(rules[n].factors.size() == own.factors.size());
    for (size_t f = 0; f < own.factors.size(); ++f) CHECK(rules[n].factors[f].size == own.factors[f].size);
  }
}

TEST_CASE("frames: values of equal layers share their sizes, each its own") {
  const ir::Graph graph = ir::parse(layered(9));
  const plan::Frame frame = plan::make_frame(graph);
  const auto batch = frame.value_dims[graph.inputs()[0]][0][0];
  for (const auto& one : {frame, frame.resized(batch, 16)}) {
    CHECK(one.value_sizes.all().distinct() < 12);
    for (size_t v = 0; v < graph.values().size(); ++v) {
      plan::LeafSizes own;
      for (const auto& dim : one.value_dims[v]) {
        own.emplace_back();
        for (const auto atom : dim) own.back().push_back(one.atoms.size(atom));
      }
      CHECK(one.value_sizes[v] == own);
    }
  }
}

TEST_CASE("moves: each is priced as it is, whatever uses of its kind ask for") {
  const plan::Step step = plan::make_step(ir::parse(layered(9)));
  const plan::Cluster cluster = plan::parse_cluster("h100:4");
  const plan::Mesh mesh = plan::Mesh::make(cluster, {2, 2});
  for (uint64_t seed = 0; seed < 20; ++seed) {
    plan::SplitCounts counts;
    const auto plan = plan::random_assignment(step.graph, step.frame, mesh, seed, &counts);
    plan::Moves moves(step, step.frame, mesh);
    size_t edge = 0;
    for (size_t n = 0; n < step.graph.nodes().size(); ++n) {
      const auto& operands = step.graph.nodes()[n].operands;
      for (size_t o = 0; o < operands.size(); ++o, ++edge) {
        const auto& type = step.graph.type(operands[o]);
        const auto& sizes = plan::leaf_sizes(step.frame, operands[o]);
        const auto& from = plan.placement(step.graph, operands[o]);
        const auto& to = plan.nodes[n].operands[o];
        const double wanted = plan::convert_seconds(type, sizes, from, to, mesh, n % 2 == 1);
        CHECK(moves.seconds(edge, from, to, n % 2 == 1) == wanted);
        const double bytes = wanted > 0 ? plan::local_bytes(type, sizes, to, mesh) : 0;
        CHECK(moves.bytes(edge, from, to) == bytes);
      }
    }
  }
}

TEST_CASE("an assignment means the same where nothing in it is shared") {
  const plan::Step step = plan::make_step(ir::parse(layered(9)));
  const plan::Cluster cluster = plan::parse_cluster("h100:4");
  const plan::Mesh mesh = plan::Mesh::make(cluster, {2, 2});
  plan::Terms terms;
  terms.memory_bytes = 1e9;
  const auto shared = plan::assign(step, step.frame, mesh, terms);
  REQUIRE(shared.fits);
  CHECK(shared.nodes.distinct() < shared.nodes.size());
  CHECK(shared.inputs.distinct() < shared.inputs.size());
  plan::Assignment alone = shared;
  alone.nodes = {};
  alone.inputs = {};
  for (size_t n = 0; n < shared.nodes.size(); ++n) alone.nodes.push_back(shared.nodes[n]);
  for (size_t i = 0; i < shared.inputs.size(); ++i) alone.inputs.push_back(shared.inputs[i]);
  CHECK(plan::live_bytes(step, step.frame, mesh, terms, alone) ==
        plan::live_bytes(step, step.frame, mesh, terms, shared));
  CHECK(plan::whole(step, step.frame, mesh, terms, alone).spent.seconds ==
        plan::whole(step, step.frame, mesh, terms, shared).spent.seconds);
}
