#include "plan/pipeline_cost.h"

#include "catch.h"
#include "ir/error.h"
#include "ir/graph.h"

namespace moai::plan {
namespace {

// A table that the first and the last of three products read, updated where the first one is.
constexpr const char* kTied = R"(
graph(%x: f32[64,32], %a: f32[32,32], %b: f32[32,32]) numbers(f) {
  %i: f32[64,32] = aten.tanh(%x)
  %0: f32[64,32] = aten.mm(%i, %a)
  %1: f32[64,32] = aten.tanh(%0)
  %2: f32[64,32] = aten.mm(%1, %b)
  %3: f32[64,32] = aten.tanh(%2)
  %4: f32[64,32] = aten.mm(%3, %a)
  %5: f32[32,64]{1,32} = !bw moai.permute(%3, [1, 0])
  %6: f32[32,32] = !bw aten.mm(%5, %4)
  %7: f32[32,32]{1,32} = !bw moai.permute(%a, [1, 0])
  %8: f32[64,32] = !bw aten.mm(%4, %7)
  %9: f32[64,32] = !bw aten.tanh_backward(%8, %3)
  %10: f32[32,32]{1,32} = !bw moai.permute(%b, [1, 0])
  %11: f32[64,32] = !bw aten.mm(%9, %10)
  %12: f32[64,32] = !bw aten.tanh_backward(%11, %1)
  %13: f32[32,64]{1,32} = !bw moai.permute(%i, [1, 0])
  %14: f32[32,32] = !bw aten.mm(%13, %12)
  %15@0: f32[32,32] = !bw aten.add_.Tensor(%14, %6, n0)
  %16@0: f32[32,32] = aten.sub_.Tensor(%a, %15, n0)
  return %16
})";

std::vector<Stretch> line_of(const Step& step, const Cluster& cluster) {
  const Mesh mesh = Mesh::make(cluster, {});
  Terms terms;
  terms.memory_bytes = 1e12;
  return stretches(step, step.frame, mesh, assign(step, step.frame, mesh, terms));
}

OuterChoice two_stages(int32_t chunks) {
  OuterChoice outer;
  outer.stages = 2;
  outer.chunks = chunks;
  outer.micro_batches = 4;
  outer.order = Order::k1F1B;
  return outer;
}

TEST_CASE("pipeline cost: a weight of two stages comes and its gradient goes, once a step") {
  const Cluster cluster = parse_cluster("h100:2");
  const Step step = make_step(ir::parse(kTied));
  const std::vector<Stretch> line = line_of(step, cluster);
  REQUIRE(line.size() > 2);
  CHECK(line[0].borrowed.empty());
  std::vector<Stretch> apart = line;
  size_t loans = 0;
  for (auto& stretch : apart) {
    for (const auto& one : stretch.borrowed) {
      CHECK(one.bytes == 4 * 32 * 32);
      CHECK(one.from == step.stretch_of_input[1]);
    }
    loans += stretch.borrowed.size();
    stretch.borrowed.clear();
  }
  REQUIRE(loans > 0);
  const PipelineCost with = pipeline_cost(line, two_stages(1), cluster, 1e12);
  const PipelineCost without = pipeline_cost(apart, two_stages(1), cluster, 1e12);
  const double taken =
      2 * seconds(cluster, Collective::kSendReceive, axis_group(cluster, 1, 2), 4.0 * 32 * 32);
  CHECK(with.spent.seconds - without.spent.seconds == Approx(taken));
  CHECK(with.spent.exposed - without.spent.exposed == Approx(taken));
  CHECK(with.handed.communicate - without.handed.communicate == Approx(taken));
  CHECK(with.spent.compute == Approx(without.spent.compute));
}

TEST_CASE("pipeline cost: stages of one device lend each other nothing") {
  const Cluster cluster = parse_cluster("h100:2");
  std::vector<Stretch> line(4);
  for (auto& stretch : line) stretch.forward = stretch.backward = 1e-3;
  line[2].borrowed = {{0, 0, 1e9}};  // the third virtual stage is the first one's device's
  const double there = pipeline_cost(line, two_stages(2), cluster, 1e12).spent.seconds;
  CHECK(pipeline_cost(line, two_stages(1), cluster, 1e12).peak_bytes == 2e9);
  line[2].borrowed.clear();
  CHECK(there == pipeline_cost(line, two_stages(2), cluster, 1e12).spent.seconds);
}

}  // namespace
}  // namespace moai::plan
