#include "plan/hand_on.h"

#include "catch.h"
#include "ir/graph.h"
#include "plan/assign.h"
#include "plan/timeline.h"

namespace moai::plan {
namespace {

constexpr const char* kRecorded =
    R"(graph(%x: f32[16,8], %g: f32[16,4], %w: f32[8,4], %v: f32[4]) numbers(f) {
  %y: f32[16,4] = aten.mm(%x, %w)
  %a: f32[16,4] = aten.add.Tensor(%y, %v, n0)
  %s: f32[16,4] = aten.tanh(%a)
  %d: f32[16,4] = !bw aten.tanh_backward(%g, %s)
  %t: f32[8,16] = !bw moai.permute(%x, [1, 0])
  %p: f32[8,4] = !bw aten.mm(%t, %d)
  %q: f32[4] = !bw aten.sum.dim_IntList(%d, [0], false, none)
  %r: f32[8,4] = !bw aten.neg(%p)
  %n@0: f32[8,4] = aten.sub_.Tensor(%w, %r, n0)
  return %n, %q
})";

constexpr const char* kHandedOn =
    R"(graph(%x: f32[16,8], %g: f32[16,4], %w: f32[8,4], %v: f32[4]) numbers(f) {
  %y: f32[16,4] = aten.mm(%x, %w)
  %a: f32[16,4] = aten.add.Tensor(%y, %v, n0)
  %s: f32[16,4] = aten.tanh(%a)
  %d: f32[16,4] = !bw aten.tanh_backward(%g, %s)
  %t: f32[8,16] = !bw moai.permute(%x, [1, 0])
  %p: f32[8,4] = !bw aten.mm(%t, %d)
  %h: f32[8,4] = !bw moai.permute(%p, [0, 1])
  %q: f32[4] = !bw aten.sum.dim_IntList(%d, [0], false, none)
  %i: f32[4] = !bw moai.permute(%q, [0])
  %r: f32[8,4] = !bw aten.neg(%h)
  %n@0: f32[8,4] = aten.sub_.Tensor(%w, %r, n0)
  return %n, %i
})";

TEST_CASE("hand_on: what turns add up is handed to those that read the sum") {
  const Step late = make_step(ir::parse(kRecorded));
  REQUIRE(late.time.obstacle.empty());
  const Step at_once = make_step(late, {Recompute::kNone, Offload::kNone, Gradients::kAtOnce});
  ir::verify(at_once.graph);
  CHECK(ir::print(at_once.graph) == ir::print(ir::parse(kHandedOn)));
  for (size_t n = 0; n < at_once.graph.nodes().size(); ++n) {
    const ir::Node& node = at_once.graph.nodes()[n];
    const bool is_new = node.op.str() == "moai.permute" && node.results[0] != node.operands[0] &&
                        at_once.graph.type(node.results[0]) == at_once.graph.type(node.operands[0]);
    CHECK(at_once.hands_on[n] == is_new);
    if (!is_new) continue;
    CHECK(at_once.time.repeats[n]);
    CHECK(at_once.base[node.results[0]] == node.results[0]);
  }
}

TEST_CASE("hand_on: a device that hands on shards keeps these alone") {
  const Step late = make_step(ir::parse(kRecorded));
  const Step at_once = make_step(late, {Recompute::kNone, Offload::kNone, Gradients::kAtOnce});
  const Cluster cluster = parse_cluster("h100:4");
  const Mesh mesh = Mesh::make(cluster, {4}, {role_bit(Role::kBatch)});
  const auto planned = [&](const Step& step, int32_t zero, int32_t turns) {
    Terms terms;
    terms.memory_bytes = 1e9;
    terms.zero = zero;
    terms.turns = turns;
    terms.uses_axes = true;
    const Frame turn = frame_of_turn(step.frame, step.time, turns);
    const Assignment found = assign(step, turn, mesh, terms);
    REQUIRE(found.fits);
    return whole(step, turn, mesh, terms, found);
  };
  const Whole sums = planned(late, 1, 4), shards = planned(at_once, 2, 4);
  CHECK(shards.bytes.gradients == Approx(sums.bytes.gradients / 4));
}

}  // namespace
}  // namespace moai::plan
