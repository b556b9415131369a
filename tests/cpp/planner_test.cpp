#include <algorithm>
#include <limits>

#include "catch.h"
#include "ir/error.h"
#include "ir/graph.h"
#include "plan/assign.h"
#include "plan/planner.h"
#include "plan/split_lists.h"

using namespace moai;

namespace {

// `layers` equal layers of two matrix products with a residual, each with weights of its own.
std::string layered(int layers, int width) {
  std::string inputs = concat("%x: bf16[64,", width, "]"), body;
  std::string last = "%x";
  for (int i = 0; i < layers; ++i) {
    inputs += concat(", %a", i, ": bf16[", width, ",", 4 * width, "], %b", i, ": bf16[", 4 * width, ",",
                     width, "]");
    body += concat("%h", i, ": bf16[64,", 4 * width, "] = aten.mm(", last, ", %a", i, ")\n");
    body += concat("%g", i, ": bf16[64,", 4 * width, "] = aten.gelu(%h", i, ", \"none\")\n");
    body += concat("%o", i, ": bf16[64,", width, "] = aten.mm(%g", i, ", %b", i, ")\n");
    body += concat("%r", i, ": bf16[64,", width, "] = aten.add.Tensor(", last, ", %o", i, ", n0)\n");
    last = concat("%r", i);
  }
  return concat("graph(", inputs, ") numbers(f) {\n", body, "return ", last, "\n}");
}

struct Planned {
  ir::Graph graph;
  plan::Frame frame;
  plan::Cluster cluster;
  plan::Mesh mesh;

  Planned(const std::string& text, const std::string& cluster_name, const std::vector<int32_t>& sizes)
      : graph(plan::split_lists(ir::parse(text))),
        frame(plan::make_frame(graph)),
        cluster(plan::parse_cluster(cluster_name)),
        mesh(plan::Mesh::make(cluster, sizes)) {}
};

}  // namespace

TEST_CASE("lists are split by element, their outputs kept in order") {
  const auto graph = ir::parse(R"(graph(%0: f32[2], %1: f32[3], %2: f32[2], %3: f32[3]) numbers(f, f) {
    %4@0: f32[2], %5@1: f32[3] = aten._foreach_add_.List([%0, %1], [%2, %3], n0)
    %6: f32[], %7: f32[] = aten._foreach_norm.Scalar([%4, %5], 2.0, none)
    return %7, %6, %5, %4
  })");
  const auto split = plan::split_lists(graph);
  ir::verify(split);
  const auto wanted = ir::parse(R"(graph(%0: f32[2], %1: f32[3], %2: f32[2], %3: f32[3]) numbers(f, f) {
    %4@0: f32[2] = aten._foreach_add_.List([%0], [%2], n0)
    %5@0: f32[3] = aten._foreach_add_.List([%1], [%3], n0)
    %6: f32[] = aten._foreach_norm.Scalar([%4], 2.0, none)
    %7: f32[] = aten._foreach_norm.Scalar([%5], 2.0, none)
    return %7, %6, %5, %4
  })");
  CHECK(ir::print(split) == ir::print(wanted));
}

TEST_CASE("equal layers get one choice, however many there are") {
  const Planned few(layered(12, 64), "h100:4", {4}), many(layered(96, 64), "h100:4", {4});
  const auto a = plan::fold(few.graph, few.frame, 4), b = plan::fold(many.graph, many.frame, 4);
  CHECK(a.count.size() == b.count.size());
  int32_t members = 0;
  for (const auto count : b.count) members += count;
  CHECK(members == static_cast<int32_t>(many.graph.nodes().size() + many.graph.inputs().size()));
}

TEST_CASE("what changes no placement costs nothing, and what adds up costs most") {
  const Planned p(layered(1, 64), "h100:4", {4});
  using K = plan::Split::Kind;
  const auto type = ir::Type::contiguous(ir::DType::kF32, {64, 64});
  const std::vector<std::vector<int64_t>> leaves{{64}, {64}};
  const plan::Split replicate, row{K::kShard, 0, 0}, column{K::kShard, 1, 0}, partial{K::kPartial},
      reduced{K::kReduced};
  const auto cost = [&](plan::Split from, plan::Split to) {
    return plan::convert_seconds(type, leaves, {from}, {to}, p.mesh);
  };
  for (const auto& to : {replicate, row, partial}) CHECK(cost(replicate, to) == 0);
  for (const auto& same : {row, partial}) CHECK(cost(same, same) == 0);
  CHECK(cost(row, partial) == 0);
  CHECK(cost(row, replicate) > 0);
  CHECK(cost(row, column) > 0);
  CHECK(cost(partial, replicate) >= cost(partial, row));
  CHECK(cost(reduced, partial) == std::numeric_limits<double>::infinity());
  CHECK(plan::local_bytes(type, leaves, {row}, p.mesh) == 64 * 64 * 4 / 4);
}

TEST_CASE("every option agrees with its rule") {
  const Planned p(layered(1, 64), "h100:2x2", {2, 2});
  for (size_t n = 0; n < p.graph.nodes().size(); ++n) {
    const auto options = plan::options_of(p.graph, p.frame, static_cast<ir::NodeId>(n), p.mesh);
    REQUIRE(!options.empty());
    CHECK(options[0].choices[0].kind == plan::AxisChoice::Kind::kWhole);
    for (const auto& option : options) {
      CHECK(option.seconds > 0);
      CHECK(option.operands.size() == p.graph.nodes()[n].operands.size());
      for (const auto& placement : option.results) CHECK(placement.size() == 2);
    }
  }
}

TEST_CASE("a plan is no worse than any single axis, and memory bounds it") {
  const std::string text = layered(6, 1024);
  const Planned p(text, "h100:4", {4});
  const double plenty = 1e12;
  const auto free = plan::assign(p.graph, p.frame, p.mesh, plenty);
  REQUIRE(free.fits);
  CHECK(free.seconds >= free.lower_bound * (1 - 1e-9));

  const Planned one(text, "h100:1", {});
  CHECK(free.seconds <= plan::assign(one.graph, one.frame, one.mesh, plenty).seconds);

  // With half the memory that the free plan takes, it fits in another way, or says what is exceeded.
  const double half = *std::max_element(free.bytes.begin(), free.bytes.end()) / 2;
  const auto tight = plan::assign(p.graph, p.frame, p.mesh, half);
  if (tight.fits) {
    for (const auto bytes : tight.bytes) CHECK(bytes <= half);
    CHECK(tight.seconds >= free.lower_bound * (1 - 1e-9));
  } else {
    CHECK(!tight.excess.empty());
  }
  const auto none = plan::assign(p.graph, p.frame, p.mesh, 1000);
  CHECK(!none.fits);
  CHECK(none.excess.find("memory") != std::string::npos);
  CHECK(none.bytes[0] > 1000);
}

TEST_CASE("micro-batches repeat forward and backward alone") {
  const Planned p(layered(2, 64), "h100:2", {2});
  const auto once = plan::assign(p.graph, p.frame, p.mesh, 1e12, 1);
  const auto thrice = plan::assign(p.graph, p.frame, p.mesh, 1e12, 3);
  CHECK(thrice.seconds == Approx(3 * once.seconds));  // nothing here is the optimizer's
}
