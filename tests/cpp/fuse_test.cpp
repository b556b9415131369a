#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "catch.h"
#include "compile/fuse/emit.h"
#include "compile/fuse/groups.h"
#include "compile/fuse/kernel.h"
#include "compile/program.h"
#include "ir/error.h"

namespace moai::compile {
namespace {

// The graph with what each fused node stands for in its place.
ir::Graph taken_apart(const ir::Graph& graph) {
  ir::Graph out;
  std::vector<ir::ValueId> renamed(graph.values().size(), ir::kNone);
  for (const ir::ValueId input : graph.inputs()) renamed[input] = out.add_input(graph.type(input));
  out.set_numbers(graph.numbers());
  const auto add = [&](const ir::Graph& from, ir::Node node, std::vector<ir::ValueId>& names,
                       const std::vector<int32_t>* numbers) {
    std::vector<ir::Type> types;
    for (const ir::ValueId result : node.results) types.push_back(from.type(result));
    for (ir::ValueId& operand : node.operands) operand = names[operand];
    for (ir::Arg& arg : node.args) {
      auto* ref = std::get_if<ir::NumberRef>(&arg);
      if (ref != nullptr && numbers != nullptr) ref->index = (*numbers)[ref->index];
    }
    const auto results = std::move(node.results);
    node.results.clear();
    const ir::NodeId id = out.add_node(std::move(node), types);
    for (size_t r = 0; r < results.size(); ++r) names[results[r]] = out.node(id).results[r];
  };
  for (const ir::Node& node : graph.nodes()) {
    if (!is_fused(node)) {
      add(graph, node, renamed, nullptr);
      continue;
    }
    const ir::Graph inner = fused_graph(node);
    const auto& numbers = std::get<ir::NumberListRef>(node.args[2]).indices;
    std::vector<ir::ValueId> names(inner.values().size(), ir::kNone);
    for (size_t i = 0; i < node.operands.size(); ++i) names[inner.inputs()[i]] = renamed[node.operands[i]];
    for (const ir::Node& member : inner.nodes()) add(inner, member, names, &numbers);
    for (size_t r = 0; r < node.results.size(); ++r) renamed[node.results[r]] = names[inner.outputs()[r]];
  }
  std::vector<ir::ValueId> outputs;
  for (const ir::ValueId output : graph.outputs()) outputs.push_back(renamed[output]);
  out.set_outputs(outputs);
  return out;
}

size_t fused_count(const ir::Graph& graph) {
  size_t count = 0;
  for (const ir::Node& node : graph.nodes()) count += is_fused(node);
  return count;
}

// Pointwise ops, sums over rows, and products, which are not fused; [4,4], [4,1] and [4].
std::string random_graph(uint32_t seed) {
  std::mt19937 random(seed);
  const char* kinds[] = {"[4,4]", "[4,1]", "[4]"};
  std::vector<int> kind_of{0, 0, 1, 2};
  std::string text = "graph(%0: f32[4,4], %1: f32[4,4], %2: f32[4,1], %3: f32[4]) numbers(f, i) {\n";
  const auto pick = [&](int kind) {
    for (;;) {
      const auto v = random() % kind_of.size();
      // Mostly recent ones, so that there are chains.
      if (kind_of[v] == kind && (v + 6 >= kind_of.size() || random() % 4 == 0))
        return "%" + std::to_string(v);
      if (random() % 64 == 0) {
        for (size_t any = 0; any < kind_of.size(); ++any) {
          if (kind_of[any] == kind) return "%" + std::to_string(any);
        }
      }
    }
  };
  const size_t nodes = 5 + random() % 40;
  for (size_t n = 0; n < nodes; ++n) {
    int kind = random() % 4 == 0 ? 1 + static_cast<int>(random() % 2) : 0;
    std::string call;
    switch (random() % 6) {
      case 0: call = "aten.exp(" + pick(kind) + ")"; break;
      case 1: call = "aten.mul.Tensor(" + pick(kind) + ", " + pick(kind) + ")"; break;
      case 2: call = "aten.add.Tensor(" + pick(kind) + ", " + pick(kind == 0 ? 1 : kind) + ", n1)"; break;
      case 3: call = "aten.mul.Scalar(" + pick(kind) + ", n0)"; break;
      case 4:
        call = kind == 2   ? "aten.sum.dim_IntList(" + pick(0) + ", [1], false, none)"
               : kind == 1 ? "aten.sum.dim_IntList(" + pick(0) + ", [1], true, none)"
                           : "aten._softmax(" + pick(0) + ", -1, false)";
        break;
      default: kind = 0; call = "aten.mm(" + pick(0) + ", " + pick(0) + ")";
    }
    text += "  %" + std::to_string(kind_of.size()) + ": f32" + kinds[kind] + " = " + call + "\n";
    kind_of.push_back(kind);
  }
  text += "  return %" + std::to_string(kind_of.size() - 1);
  for (size_t v = 4; v + 1 < kind_of.size(); v += 1 + random() % 5) text += ", %" + std::to_string(v);
  return text + "\n}\n";
}

TEST_CASE("a_fused_graph_is_the_graph_in_fewer_nodes") {
  size_t fused = 0;
  for (uint32_t seed = 0; seed < 400; ++seed) {
    const ir::Graph graph = ir::parse(random_graph(seed));
    INFO("seed " << seed << "\n" << ir::print(graph));
    const ir::Graph with_groups = fuse_groups(graph);
    INFO(ir::print(with_groups));
    ir::verify(with_groups);
    for (const ir::Node& node : with_groups.nodes()) {
      if (!is_fused(node)) continue;
      ++fused;
      const ir::Graph inner = fused_graph(node);
      REQUIRE(inner.nodes().size() > 1);
      REQUIRE(build_kernel(inner));
      REQUIRE(inner.outputs().size() == node.results.size());
    }
    REQUIRE(ir::hash(taken_apart(with_groups)) == ir::hash(graph));
    Program program = lower(with_groups, {});
    plan_memory(program);
    verify(program);
  }
  CHECK(fused > 400);
}

// x + y, its mean square over rows, and the row scaled by it and a weight: RMSNorm as models write it.
constexpr const char* kNorm = R"(graph(%0: bf16[8,16], %1: bf16[16], %2: bf16[8,16]) numbers(f, i) {
  %3: bf16[8,16] = aten.add.Tensor(%0, %2, n1)
  %4: f32[8,16] = aten._to_copy(%3, f32, none, none, none, false, none)
  %5: f32[8,16] = aten.mul.Tensor(%4, %4)
  %6: f32[8,1] = aten.mean.dim(%5, [-1], true, none)
  %7: f32[8,1] = aten.add.Tensor(%6, host(n0, f64, wrapped), n1)
  %8: f32[8,1] = aten.rsqrt(%7)
  %9: f32[8,16] = aten.mul.Tensor(%4, %8)
  %10: bf16[8,16] = aten._to_copy(%9, bf16, none, none, none, false, none)
  %11: bf16[8,16] = aten.mul.Tensor(%10, %1)
  %12: bf16[8,8] = aten.mm(%11, %11)
  return %12, %3
})";

TEST_CASE("a_norm_with_what_comes_before_and_after_is_one_kernel") {
  const ir::Graph fused = fuse_groups(ir::parse(kNorm));
  REQUIRE(fused.nodes().size() == 2);
  REQUIRE(is_fused(fused.node(0)));
  const auto kernel = build_kernel(fused_graph(fused.node(0)));
  REQUIRE(kernel);
  CHECK(kernel->reduces);
  CHECK(kernel->inputs.size() == 3);
  CHECK(kernel->outputs.size() == 2);
}

TEST_CASE("a_value_that_goes_out_and_comes_back_is_no_member") {
  const ir::Graph graph = ir::parse(R"(graph(%0: f32[4,4]) {
    %1: f32[4,4] = aten.exp(%0)
    %2: f32[4,4] = aten.mm(%1, %1)
    %3: f32[4,4] = aten.mul.Tensor(%1, %2)
    %4: f32[4,4] = aten.sin(%3)
    return %4
  })");
  const ir::Graph fused = fuse_groups(graph);
  CHECK(fused.nodes().size() == 3);  // exp, mm, and mul with sin
  CHECK(fused_count(fused) == 1);
}

// Neither sizes nor strides, where dims collapse alike, are part of a text.
TEST_CASE("one_text_serves_all_sizes") {
  const auto text_of = [](std::string norm, const char* from, const char* to) {
    for (size_t at = 0; (at = norm.find(from, at)) != std::string::npos; at += std::string(to).size())
      norm.replace(at, std::string(from).size(), to);
    const auto kernel = build_kernel(fused_graph(fuse_groups(ir::parse(norm)).node(0)));
    return emit(*kernel, collapse(*kernel), Target::kCuda);
  };
  const std::string text = text_of(kNorm, "none", "none");
  CHECK(text == text_of(kNorm, "16]", "48]"));
  CHECK(text != text_of(kNorm, "aten.rsqrt", "aten.sqrt"));
}

TEST_CASE("dims_that_all_operands_go_through_alike_are_one") {
  const auto kernel =
      build_kernel(ir::parse(R"(graph(%0: f32[2,3,4,5], %1: f32[4,5], %2: f32[2,3,4,5]{60,1,15,3}) {
    %3: f32[2,3,4,5] = aten.mul.Tensor(%0, %1)
    %4: f32[2,3,4,5] = aten.mul.Tensor(%3, %2)
    return %4
  })"));
  REQUIRE(kernel);
  const Collapsed collapsed = collapse(*kernel);
  CHECK(collapsed.rows.empty());
  CHECK(collapsed.columns == ir::Dims{2, 3, 20});
  CHECK(collapsed.strides[0] == ir::Dims{60, 20, 1});
  CHECK(collapsed.strides[1] == ir::Dims{0, 0, 1});
  CHECK(collapsed.strides[2] == ir::Dims{60, 1, 3});
}

// See Note [Packs]: x[rows,columns] + y over rows of memory that are `pitch` elements apart.
TEST_CASE("packs_are_moved_where_every_operand_lies_so_that_they_can_be") {
  struct Row {
    int64_t columns, pitch, address;
    const char* other;  // type of y
    bool moves;
  };
  const std::vector<Row> rows{
      {64, 64, 0, "f32[8,64]", true},   // of one piece
      {67, 67, 0, "f32[8,67]", true},   // the last elements are gone through one by one
      {64, 72, 0, "f32[8,64]", true},   // rows apart, by whole packs
      {64, 66, 0, "f32[8,64]", false},  // the next row begins within one
      {66, 68, 0, "f32[8,66]", false},  // a pack would reach into the next row
      {64, 64, 4, "f32[8,64]", false},  // begins at no multiple of 16 bytes
      {64, 64, 16, "f32[8,64]", true},      {64, 64, 0, "f32[64]", true},  // the same for all rows
      {64, 64, 0, "f32[8,1]", true},                                       // the same for all of a row
      {64, 64, 0, "f32[8,64]{1,8}", false},                                // the other way round in memory
      {64, 64, 8, "bool[8,64]", false},     {3, 4, 0, "f32[8,3]", false},
  };
  for (const Row& row : rows) {
    const std::string x = concat("f32[8,", row.columns, "]{", row.pitch, ",1}");
    const std::string out = concat("f32[8,", row.columns, "]");
    const bool is_bool = row.other[0] == 'b';
    const std::string call = is_bool ? "aten.masked_fill.Scalar(%0, %1, n0)" : "aten.mul.Tensor(%0, %1)";
    const std::string text = concat("graph(%0: ", x, ", %1: ", row.other, ") numbers(f) { %2: ", out, " = ",
                                    call, " %3: ", out, " = aten.exp(%2) return %3 }");
    INFO(text);
    const auto kernel = build_kernel(ir::parse(text));
    REQUIRE(kernel);
    const Collapsed collapsed = collapse(*kernel);
    CHECK(moves_packs(*kernel, collapsed, {row.address, 32, 64}) == row.moves);
  }
}

}  // namespace
}  // namespace moai::compile
