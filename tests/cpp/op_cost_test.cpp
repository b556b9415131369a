#include "plan/op_cost.h"

#include "catch.h"
#include "plan/cluster/cluster.h"

namespace moai::plan {
namespace {

// Of a graph's last node on one device of `cluster`.
OpCost cost_of_last(const std::string& text, const std::string& cluster_name) {
  const ir::Graph graph = ir::parse(text);
  const Frame frame = make_frame(graph);
  const Cluster cluster = parse_cluster(cluster_name);
  const Mesh mesh = Mesh::make(cluster, {});
  const auto node = static_cast<ir::NodeId>(graph.nodes().size() - 1);
  return cost_of(graph, frame, node, options_of(graph, frame, node, mesh).front(), mesh);
}

TEST_CASE("op_cost: attention's backward multiplies in the type of its queries") {
  const std::string head = "graph(%q: bf16[2,4,512,64], %k: bf16[2,4,512,64], %v: bf16[2,4,512,64]";
  const OpCost forward = cost_of_last(
      head +
          ") { %o: bf16[2,4,512,64], %l: f32[2,4,512] = "
          "aten._scaled_dot_product_flash_attention_for_cpu(%q, %k, %v, 0.0, true, none, none) return %o }",
      "h100:1");
  const OpCost backward = cost_of_last(
      head +
          ", %g: bf16[2,4,512,64], %o: bf16[2,4,512,64], %l: f32[2,4,512]) { %a: bf16[2,4,512,64], "
          "%b: bf16[2,4,512,64], %c: bf16[2,4,512,64] = "
          "aten._scaled_dot_product_flash_attention_for_cpu_backward(%g, %q, %k, %v, %o, %l, 0.0, true, "
          "none, "
          "none) return %a, %b, %c }",
      "h100:1");
  CHECK(forward.attention > 0);
  CHECK(forward.product == 0);
  CHECK(backward.attention == Approx(2.5 * forward.attention));
}

TEST_CASE("op_cost: computing and moving overlap, the rest adds up") {
  OpCost cost;
  cost.product = 2;
  cost.memory = 3;
  cost.overhead = 0.5;
  cost.exchange = 0.25;
  CHECK(cost.seconds() == 3.75);
  cost.attention = 2;
  CHECK(cost.seconds() == 4.75);
}

TEST_CASE("op_cost: a product counts at its type's rate, views at none") {
  const OpCost half = cost_of_last(
      "graph(%a: bf16[512,512], %b: bf16[512,512]) { %c: bf16[512,512] = aten.mm(%a, %b) return %c }",
      "h100:1");
  const OpCost whole = cost_of_last(
      "graph(%a: f32[512,512], %b: f32[512,512]) { %c: f32[512,512] = aten.mm(%a, %b) return %c }", "h100:1");
  CHECK(whole.product == Approx(half.product * 989 / 67));
  CHECK(whole.memory == Approx(2 * half.memory));
}

}  // namespace
}  // namespace moai::plan
