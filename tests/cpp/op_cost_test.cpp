#include "plan/op_cost.h"

#include "catch.h"
#include "plan/cluster/cluster.h"
#include "plan/live_bytes.h"
#include "plan/timeline.h"

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

TEST_CASE("op_cost: a grouped product counts at its factors' rate, not at its offsets'") {
  const OpCost plain = cost_of_last(
      "graph(%a: bf16[512,512], %b: bf16[512,512]) { %c: bf16[512,512] = aten.mm(%a, %b) return %c }",
      "h100:1");
  const OpCost grouped = cost_of_last(
      "graph(%a: bf16[512,512], %b: bf16[8,512,512], %e: i32[8]) { %c: bf16[512,512] = "
      "aten._grouped_mm(%a, %b, %e, none, none) return %c }",
      "h100:1");
  CHECK(grouped.product == Approx(plain.product));
}

TEST_CASE("op_cost: what kernels work on beside their tensors, and less of it where a part has less") {
  struct Row {
    const char* text;
    double bytes;
    const char* divides;  // names of factors by which a part works on less
  };
  const Row rows[] = {
      // Keys and places.
      {"graph(%a: f32[64,256]) { %v: f32[64,256], %i: i64[64,256] = aten.sort(%a, 1, false) return %v, %i }",
       64 * 256 * (4 + 8), "d0"},
      {"graph(%a: bf16[64,256]) { %v: bf16[64,8], %i: i64[64,8] = aten.topk(%a, 8, 1, true, true) return %v "
       "}",
       64 * 256 * (2 + 8), "d0"},
      // The windows of one sample: 3 x 3 of 16 channels for each of 32 x 32 places.
      {"graph(%x: f32[4,16,32,32], %w: f32[8,16,3,3]) { %y: f32[4,8,32,32] = aten.convolution(%x, %w, none, "
       "[1,1], [1,1], [1,1], false, [0,0], 1) return %y }",
       32 * 32 * 9 * 16 * 4, "c"},
      {"graph(%x: f32[4,16,32,32], %w: f32[8,16,1,1]) { %y: f32[4,8,32,32] = aten.convolution(%x, %w, none, "
       "[1,1], [0,0], [1,1], false, [0,0], 1) return %y }",
       0, ""},
      {"graph(%a: f32[64,64], %b: f32[64,64]) { %c: f32[64,64] = aten.mm(%a, %b) return %c }", 0, ""},
  };
  const Cluster cluster = parse_cluster("h100:4");
  const Mesh mesh = Mesh::make(cluster, {4});
  for (const auto& row : rows) {
    const ir::Graph graph = ir::parse(row.text);
    const Frame frame = make_frame(graph);
    int32_t divided = 0;
    for (const auto& option : options_of(graph, frame, 0, mesh)) {
      const AxisChoice& choice = option.choices[0];
      const bool is_split = choice.kind == AxisChoice::Kind::kFactor;
      const std::string name = is_split ? frame.rules[0].factors[choice.factor].name : "";
      INFO(row.text << ", by " << name);
      if (is_split && frame.rules[0].factors[choice.factor].window.over >= 0) continue;  // has a halo too
      const bool divides = is_split && name == row.divides;
      divided += divides;
      CHECK(option.scratch_bytes == Approx(divides ? row.bytes / 4 : row.bytes));
    }
    CHECK((divided > 0) == (row.bytes > 0));
  }
}

TEST_CASE(
    "op_cost: a part of a convolution's space gathers its halo, and keeps what it sees beside its part") {
  const ir::Graph graph = ir::parse(
      "graph(%x: f32[4,16,32,32], %w: f32[8,16,3,3]) { %y: f32[4,8,32,32] = aten.convolution(%x, %w, none, "
      "[1,1], [1,1], [1,1], false, [0,0], 1) return %y }");
  const Frame frame = make_frame(graph);
  const Cluster cluster = parse_cluster("h100:4");
  const Mesh mesh = Mesh::make(cluster, {4});
  const double row = 4 * 16 * 32 * 4, windows = 32 * 32 * 9 * 16 * 4;
  int32_t found = 0;
  for (const auto& option : options_of(graph, frame, 0, mesh)) {
    const AxisChoice& choice = option.choices[0];
    if (choice.kind != AxisChoice::Kind::kFactor || frame.rules[0].factors[choice.factor].name != "z.0")
      continue;
    ++found;
    const double seen = (8 + 2) * row, gathered = (1 + 2 + 2 + 1) * row;
    CHECK(option.scratch_bytes == Approx(windows / 4 + seen + gathered));
    const DeviceKind& device = cluster.device(0);
    CHECK(cost_of(graph, frame, 0, option, mesh).exchange ==
          Approx(seconds(cluster, Collective::kAllGather, mesh.axes[0].group, gathered) +
                 2 * seen / (device.memory_bytes_per_s * device.memory_efficiency) +
                 2 * device.op_overhead_s));
  }
  CHECK(found == 1);
}

TEST_CASE("op_cost: attention's backward adds up its queries' gradient in fp32") {
  const ir::Graph graph = ir::parse(
      "graph(%g: bf16[2,4,512,64], %q: bf16[2,4,512,64], %k: bf16[2,4,512,64], %v: bf16[2,4,512,64], "
      "%o: bf16[2,4,512,64], %l: f32[2,4,512]) { %a: bf16[2,4,512,64], %b: bf16[2,4,512,64], "
      "%c: bf16[2,4,512,64] = aten._scaled_dot_product_flash_attention_for_cpu_backward(%g, %q, %k, %v, %o, "
      "%l, 0.0, true, none, none) return %a, %b, %c }");
  const Frame frame = make_frame(graph);
  const Cluster cluster = parse_cluster("h100:4");
  const Mesh mesh = Mesh::make(cluster, {4});
  const double whole = 4.0 * 2 * 4 * 512 * (64 + 1);
  for (const auto& option : options_of(graph, frame, 0, mesh)) {
    const bool is_split = option.choices[0].kind == AxisChoice::Kind::kFactor;
    CHECK(option.scratch_bytes == Approx(is_split ? whole / 4 : whole));
  }
}

TEST_CASE("op_cost: memory counts scratch while an op runs, by name") {
  const Step step =
      make_step(ir::parse("graph(%a: f32[64,256]) { %b: f32[64,256] = aten.relu(%a) "
                          "%v: f32[64,256], %i: i64[64,256] = aten.sort(%b, 1, false) return %v, %i }"));
  const Cluster cluster = parse_cluster("h100:1");
  const Mesh mesh = Mesh::make(cluster, {});
  Terms terms;
  terms.memory_bytes = 1e9;
  const Assignment found = assign(step, step.frame, mesh, terms);
  const double elements = 64 * 256;
  CHECK(live_bytes(step, step.frame, mesh, terms, found) ==
        std::vector<double>{elements * 8, elements * (4 + 4 + 4 + 8 + 12)});
  const Bytes bytes = whole(step, step.frame, mesh, terms, found).bytes;
  CHECK(bytes.scratch == elements * 12);
  CHECK(bytes.total() == found.bytes);
}

}  // namespace
}  // namespace moai::plan
