#include <algorithm>
#include <limits>

#include "catch.h"
#include "ir/error.h"
#include "ir/graph.h"
#include "plan/assign.h"
#include "plan/memory_parts.h"
#include "plan/pairs.h"
#include "plan/planner.h"
#include "plan/split_lists.h"
#include "plan/timeline.h"

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
  plan::Step step;
  const ir::Graph& graph;
  const plan::Frame& frame;
  plan::Cluster cluster;
  plan::Mesh mesh;

  Planned(const std::string& text, const std::string& cluster_name, const std::vector<int32_t>& sizes)
      : step(plan::make_step(ir::parse(text))),
        graph(step.graph),
        frame(step.frame),
        cluster(plan::parse_cluster(cluster_name)),
        mesh(plan::Mesh::make(cluster, sizes)) {}

  plan::Assignment assign(double memory_bytes, int32_t turns = 1) const {
    plan::Terms terms;
    terms.memory_bytes = memory_bytes;
    terms.turns = turns;
    return plan::assign(step, plan::frame_of_turn(frame, step.time, turns), mesh, terms);
  }
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

TEST_CASE("what is summed and split along axes is split first, so that less is summed") {
  const Planned p(layered(1, 64), "h100:2x4", {4, 2});
  using K = plan::Split::Kind;
  const auto type = ir::Type::contiguous(ir::DType::kF32, {64, 64});
  const std::vector<std::vector<int64_t>> leaves{{64}, {64}};
  const plan::Split replicate, row{K::kShard, 0, 0}, partial{K::kPartial};
  const auto moves = plan::convert_moves(type, leaves, {partial, partial}, {replicate, row}, p.mesh);
  REQUIRE(moves.size() == 2);
  CHECK(moves[0].collective == plan::Collective::kReduceScatter);
  CHECK(moves[0].bytes == 64 * 64 * 4);
  CHECK(moves[1].collective == plan::Collective::kAllReduce);
  CHECK(moves[1].bytes == 64 * 64 * 4 / 2);
  CHECK(plan::convert_seconds(type, leaves, {partial, partial}, {replicate, row}, p.mesh) ==
        Approx(moves[0].seconds + moves[1].seconds));
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
  const auto free = p.assign(plenty);
  REQUIRE(free.fits);
  CHECK(free.seconds >= free.lower_bound * (1 - 1e-9));

  const Planned one(text, "h100:1", {});
  CHECK(free.seconds <= one.assign(plenty).seconds);

  // Half the memory that the free plan takes is kept to in another way, which takes longer.
  const double half = free.bytes / 2;
  const auto tight = p.assign(half);
  REQUIRE(tight.fits);
  CHECK(tight.bytes <= half * (1 + 1e-9));
  CHECK(tight.seconds > free.seconds);
  CHECK(tight.lower_bound >= free.lower_bound * (1 - 1e-9));

  const auto none = p.assign(1000);
  CHECK(!none.fits);
  CHECK(none.excess.find("memory at the end of forward: ") != std::string::npos);
  CHECK(none.excess.find(" at least, limit 1000 bytes") != std::string::npos);
  CHECK(none.bytes > 1000);
}

TEST_CASE("where nothing fits, the parts of the least that lies there add up and are named") {
  const Planned p(layered(2, 64), "h100:2", {2});
  const auto none = p.assign(1000);
  REQUIRE(!none.fits);
  plan::Terms terms;
  const auto parts = plan::memory_parts(p.step, p.frame, p.mesh, terms, none);
  REQUIRE(parts.size() > 1);
  double sum = 0;
  for (const auto& part : parts) sum += part.bytes;
  CHECK(sum == Approx(none.bytes));
  // Two layers' weights of each kind, in halves.
  CHECK(plan::memory_text(parts, 2) ==
        "weights 2 x bf16[256,64], 32.0 KiB; weights 2 x bf16[64,256], 32.0 KiB");
}

TEST_CASE("turns over time share the batch, and memory with it") {
  const Planned p(layered(2, 64), "h100:2", {2});
  REQUIRE(p.step.time.obstacle.empty());
  const auto once = p.assign(1e12), often = p.assign(1e12, 4);
  CHECK(often.seconds >= once.seconds);
  CHECK(often.bytes < once.bytes);
}

TEST_CASE("an update lies in what it updates, and brings it back to where it began") {
  const Planned p(R"(graph(%s: f32[64,8], %x: f32[64,8]) {
    %r: f32[64,8] = aten.relu(%x)
    %u: f32[64,8] = update(%s, %r, [64,8]{8,1}, offset=0)
    return %u
  })",
                  "h100:2", {2});
  const auto state = p.graph.inputs()[0], updated = p.graph.outputs()[0];
  CHECK(p.step.base[updated] == state);
  CHECK(p.step.last_use[state] == static_cast<ir::NodeId>(p.graph.nodes().size()));

  // Split while it is made, whole between steps.
  plan::Assignment split;
  for (int input = 0; input < 2; ++input) split.inputs.push_back({{}});
  for (ir::NodeId n = 0; n < 2; ++n) {
    for (const auto& option : plan::options_of(p.graph, p.frame, n, p.mesh)) {
      if (option.results[0][0].kind != plan::Split::Kind::kShard) continue;
      split.nodes.push_back(option);
      break;
    }
  }
  REQUIRE(split.nodes.size() == 2);
  const double gathers = plan::convert_seconds(p.graph.type(updated), plan::leaf_sizes(p.frame, updated),
                                               split.nodes[1].results[0], split.inputs[0], p.mesh, true);
  REQUIRE(gathers > 0);
  CHECK(plan::whole(p.step, p.frame, p.mesh, {}, split).spent.communicate == Approx(gathers));
}

TEST_CASE("stages may be any number that divides the devices") {
  const auto cluster = plan::parse_cluster("h100:6");
  CHECK(plan::pairs_of(cluster, 3)[0].sizes == std::vector<int32_t>{2});
  CHECK(plan::turns_worth_a_try(48) == std::vector<int32_t>{1, 2, 3, 6, 12, 24, 48});
  CHECK(plan::turns_worth_a_try(64) == std::vector<int32_t>{1, 2, 4, 8, 16, 32, 64});
  CHECK(plan::turns_worth_a_try(1) == std::vector<int32_t>{1});
  const auto graph = ir::parse(layered(6, 64));
  const auto three = plan::plan_step(graph, cluster, plan::parse_pins("pp=3"));
  REQUIRE(three.best().fits);
  CHECK(three.best().outer.stages == 3);
  CHECK(three.best().stage_begins.size() == static_cast<size_t>(3 * three.best().outer.chunks));
  CHECK_THROWS_WITH(plan::plan_step(graph, cluster, plan::parse_pins("pp=4")),
                    ContainsSubstring("pp=4 cannot be") && ContainsSubstring("a divisor of the devices"));
}

TEST_CASE("along copies nothing is sharded that ZeRO shards along data parallelism") {
  const auto graph = ir::parse(layered(2, 64));
  const auto cluster = plan::parse_cluster("h100:2x2");
  for (const int zero : {0, 3}) {
    const auto made = plan::plan_step(graph, cluster, plan::parse_pins(concat("copies=2,dp=2,zero=", zero)));
    const auto& axes = made.best().axes;
    REQUIRE(axes.size() == 2);
    CHECK(axes[0].states_in == 1);
    CHECK(axes[1].states_in == (zero == 3 ? 2 : 1));
    for (const auto& axis : axes) CHECK(axis.data == Approx(1));
  }
}

TEST_CASE("a device waits for its messages to other stages as far as it hides none") {
  const auto graph = ir::parse(layered(8, 512));
  std::vector<plan::Candidate> made;
  for (const double overlap : {1.0, 0.0}) {
    auto cluster = plan::parse_cluster("h100:1x2");
    cluster.kinds[0].overlap = overlap;
    made.push_back(
        plan::plan_step(graph, cluster, plan::parse_pins("pp=2,micro=8,chunks=1,order=1f1b")).best());
  }
  CHECK(made[0].handed.communicate == Approx(made[1].handed.communicate));
  CHECK(made[1].handed.exposed >= made[1].handed.communicate * (1 - 1e-9));
  CHECK(made[1].step_seconds > made[0].step_seconds);
  CHECK(made[0].spent.communicate >= made[0].handed.communicate);
}

TEST_CASE("what devices of a stage hold alike goes to the next whole or in parts") {
  const Planned p(layered(4, 64), "h100:4", {4});
  plan::Assignment alike;  // everything whole on each device
  for (size_t i = 0; i < p.graph.inputs().size(); ++i) alike.inputs.push_back({{}});
  for (size_t n = 0; n < p.graph.nodes().size(); ++n) {
    alike.nodes.push_back(plan::options_of(p.graph, p.frame, static_cast<ir::NodeId>(n), p.mesh).front());
  }
  const auto whole = plan::stretches(p.step, p.frame, p.mesh, alike);
  const auto parts = plan::stretches(p.step, p.frame, p.mesh, alike, plan::Sends::kInParts);
  REQUIRE(whole.size() > 1);
  CHECK(whole[0].cut_bytes == 64 * 64 * 2);
  CHECK(whole[0].cut_seconds == 0);
  CHECK(parts[0].cut_bytes == whole[0].cut_bytes / 4);
  CHECK(parts[0].cut_seconds > 0);
  CHECK(plan::parse_pins("sends=parts").sends == plan::Sends::kInParts);
  CHECK_THROWS_WITH(plan::parse_pins("sends=half"), ContainsSubstring("whole or parts"));
  CHECK(plan::parse_pins("gathers=ahead").gathers == plan::Gathers::kAhead);
  CHECK_THROWS_WITH(plan::parse_pins("gathers=never"), ContainsSubstring("once or ahead"));
}

TEST_CASE("what cannot be gone through in parts says so, and what can is") {
  struct Row {
    const char* graph;
    const char* obstacle;  // a part of it; empty where there is none
  };
  const auto row =
      GENERATE(Row{R"(graph(%t: i64[32,8], %w: f32[100,16]) {
        %e: f32[32,8,16] = aten.embedding(%w, %t, -1, false, false)
        %s: f32[16] = aten.sum.dim_IntList(%e, [0,1], false, none)
        return %s
      })",
                   ""},
               // A mean over the batch that is put to a use that is not linear.
               Row{R"(graph(%t: i64[32,8], %w: f32[100,16]) {
        %e: f32[32,8,16] = aten.embedding(%w, %t, -1, false, false)
        %s: f32[16] = aten.sum.dim_IntList(%e, [0,1], false, none)
        %r: f32[16] = aten.relu(%s)
        %m: f32[32,8,16] = !bw aten.mul.Tensor(%e, %r)
        return %m
      })",
                   "aten.mul.Tensor uses what aten.sum.dim_IntList adds up over the whole batch"},
               // Each sample against each other.
               Row{R"(graph(%t: i64[32], %w: f32[100,16]) {
        %e: f32[32,16] = aten.embedding(%w, %t, -1, false, false)
        %p: f32[16,32]{1,16} = moai.permute(%e, [1,0])
        %s: f32[32,32] = aten.mm(%e, %p)
        return %s
      })",
                   "aten.mm pairs every sample with every other"},
               Row{R"(graph(%w: f32[16]) {
        %s: f32[16] = aten.relu(%w)
        return %s
      })",
                   "no input of the step is a batch"},
               Row{R"(graph(%t: i64[1,8], %w: f32[100,16]) {
        %e: f32[1,8,16] = aten.embedding(%w, %t, -1, false, false)
        %s: f32[16] = aten.sum.dim_IntList(%e, [0,1], false, none)
        return %s
      })",
                   "the batch holds one sample"});
  const Planned p(row.graph, "h100:2", {2});
  const std::string& obstacle = p.step.time.obstacle;
  INFO(row.graph << "\n" << obstacle);
  if (row.obstacle[0] == '\0') {
    CHECK(obstacle.empty());
  } else {
    CHECK(obstacle.find(row.obstacle) != std::string::npos);
  }
}

TEST_CASE("a layer too large for a device is split by its features") {
  const auto graph = ir::parse(layered(1, 1 << 16));
  const auto cluster = plan::parse_cluster("a100-40:8");
  const auto found = plan::plan_step(graph, cluster);
  REQUIRE(found.best().fits);
  CHECK(found.best().axes[0].name == "tensor");
  CHECK(found.best().peak_bytes <= static_cast<double>(cluster.smallest_memory()));
  CHECK(found.lower_bound <= found.best().assignment.seconds * (1 + 1e-9));
}

TEST_CASE("recomputing leaves what is computed alone, and keeps less") {
  // A line of layers whose backward reads every activation.
  std::string forward, backward, last = "%x", grad = "%g";
  std::string inputs = "%x: f32[512,512], %g: f32[512,512]";
  constexpr int kLayers = 16;
  for (int i = 0; i < kLayers; ++i) {
    inputs += concat(", %w", i, ": f32[512,512]");
    forward += concat("%m", i, ": f32[512,512] = aten.mm(", last, ", %w", i, ")\n");
    forward += concat("%t", i, ": f32[512,512] = aten.tanh(%m", i, ")\n");
    last = concat("%t", i);
  }
  for (int i = kLayers; i-- > 0;) {
    backward += concat("%b", i, ": f32[512,512] = !bw aten.tanh_backward(", grad, ", %t", i, ")\n");
    backward += concat("%c", i, ": f32[512,512] = !bw aten.mm(%b", i, ", %w", i, ")\n");
    grad = concat("%c", i);
  }
  const auto step = plan::make_step(
      ir::parse(concat("graph(", inputs, ") {\n", forward, backward, "return ", grad, "\n}")));
  const auto alive = [](const plan::Step& of) {  // bytes that forward leaves for backward
    double bytes = 0;
    for (size_t v = 0; v < of.base.size(); ++v) {
      const auto producer = of.graph.values()[v].producer;
      if (producer == ir::kNone || producer >= of.roles.forward_end || of.base[v] != static_cast<int32_t>(v))
        continue;
      if (of.last_use[v] >= of.roles.forward_end)
        bytes += static_cast<double>(of.graph.values()[v].type.bytes());
    }
    return bytes;
  };
  const auto full = plan::make_step(step, {plan::Recompute::kFull});
  ir::verify(full.graph);
  CHECK(full.graph.outputs().size() == step.graph.outputs().size());
  CHECK(full.graph.nodes().size() > step.graph.nodes().size());
  CHECK(full.graph.nodes().size() < step.graph.nodes().size() * 3 / 2 + 1);
  CHECK(alive(full) < alive(step) / 2);
  const auto selective = plan::make_step(step, {plan::Recompute::kSelective});
  ir::verify(selective.graph);
  CHECK(alive(selective) <= alive(step));
}
