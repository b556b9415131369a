#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "catch.h"
#include "ir/graph.h"
#include "random_graph.h"

namespace moai::ir {
namespace {

// The same nodes in another order that respects use after definition; inputs first.
Graph reordered(const Graph& graph, uint32_t seed) {
  RandomViews random(seed);
  Graph to;
  std::vector<ValueId> ids(graph.values().size(), kNone);
  for (const ValueId input : graph.inputs()) ids[input] = to.add_input(graph.type(input));
  to.set_numbers(graph.numbers());
  to.set_hints(graph.hints());
  std::vector<NodeId> left(graph.nodes().size());
  for (size_t i = 0; i < left.size(); ++i) left[i] = static_cast<NodeId>(i);
  const auto ready = [&](NodeId id) {
    const auto& operands = graph.node(id).operands;
    return std::all_of(operands.begin(), operands.end(),
                       [&](ValueId operand) { return ids[operand] != kNone; });
  };
  while (!left.empty()) {
    auto next = left.begin() + random.below(static_cast<int64_t>(left.size()));
    while (!ready(*next)) next = next == left.begin() ? left.end() - 1 : next - 1;
    Node node = graph.node(*next);
    std::vector<Type> types;
    for (const ValueId result : node.results) types.push_back(graph.type(result));
    for (ValueId& operand : node.operands) operand = ids[operand];
    const NodeId id = to.add_node(std::move(node), std::move(types));
    for (size_t r = 0; r < to.node(id).results.size(); ++r)
      ids[graph.node(*next).results[r]] = to.node(id).results[r];
    left.erase(next);
  }
  std::vector<ValueId> outputs;
  for (const ValueId output : graph.outputs()) outputs.push_back(ids[output]);
  to.set_outputs(std::move(outputs));
  return to;
}

TEST_CASE("hash_does_not_depend_on_the_order_of_nodes") {
  int moved = 0;
  for (uint32_t seed = 0; seed < 3000; ++seed) {
    INFO("seed " << seed);
    RandomGraph random(seed);
    const Graph graph = random.make(12);
    const Graph other = reordered(graph, seed);
    moved += print(other) != print(graph);
    REQUIRE(hash(other) == hash(graph));
    REQUIRE(structure_hash(other) == structure_hash(graph));
  }
  REQUIRE(moved > 2000);
}

TEST_CASE("different_nodes_have_different_hashes") {
  std::set<std::string> texts;
  std::set<uint64_t> hashes;
  for (uint32_t seed = 0; seed < 20000; ++seed) {
    RandomGraph random(seed);
    Graph graph = random.make(1);
    if (graph.nodes().size() != 1 || graph.node(0).results.empty()) continue;
    graph.set_outputs(graph.node(0).results);
    texts.insert(print(graph));
    hashes.insert(hash(graph));
  }
  REQUIRE(texts.size() > 5000);
  REQUIRE(hashes.size() == texts.size());
}

// One graph with a hole, and what may stand in it.
const char* const kFrame = R"(graph(%a: f32[8,16], %b: f32[8,16], %c: f32[4]) numbers(i, i, f) {
  %x: f32[8,16] = aten.sin(%a)
  %y: f32[8,16] = aten.sin(%b)
  %w: f32[8,16] = aten.sin(%a)
  HOLE
  %d: f32[8,16] = aten.dead(%b)
  return %r, %x
})";

Graph filled(const std::string& hole) {
  std::string text = kFrame;
  return parse(text.replace(text.find("HOLE"), 4, hole));
}

TEST_CASE("hash_sees_each_part_of_a_node") {
  const std::vector<std::string> rows{
      "%r: f32[8,16] = aten.add(%x, %y)",
      "%r: f32[8,16] = aten.add(%y, %x)",
      "%r: f32[8,16] = aten.add(%x, %x)",
      "%r: f32[8,16] = aten.add(%x, %w)",  // computed twice
      "%r: f32[8,16] = aten.add[%x, %y]($1, $0)",
      "%r: f32[8,16] = aten.add(%a, %b)",
      "%r: f32[8,16] = aten.sub(%x, %y)",
      "%r: f32[8,16] = !bw aten.add(%x, %y)",
      "%r@0: f32[8,16] = aten.add(%x, %y)",
      "%r@1: f32[8,16] = aten.add(%x, %y)",
      "%r: f32[8,16]{1,8} = aten.add(%x, %y)",
      "%r: f32[16,8] = aten.add(%x, %y)",
      "%r: f64[8,16] = aten.add(%x, %y)",
      "%r: f32[8,16], %s: f32[] = aten.add(%x, %y)",
      "%s: f32[], %r: f32[8,16] = aten.add(%x, %y)",
      "%r: f32[8,16] = aten.add(%x, %y, none)",
      "%r: f32[8,16] = aten.add(%x, %y, 0)",
      "%r: f32[8,16] = aten.add(%x, %y, 1)",
      "%r: f32[8,16] = aten.add(%x, %y, 0.0)",
      "%r: f32[8,16] = aten.add(%x, %y, -0.0)",
      "%r: f32[8,16] = aten.add(%x, %y, nan)",
      "%r: f32[8,16] = aten.add(%x, %y, true)",
      "%r: f32[8,16] = aten.add(%x, %y, false)",
      "%r: f32[8,16] = aten.add(%x, %y, \"\")",
      "%r: f32[8,16] = aten.add(%x, %y, \"0\")",
      "%r: f32[8,16] = aten.add(%x, %y, f32)",
      "%r: f32[8,16] = aten.add(%x, %y, f64)",
      "%r: f32[8,16] = aten.add(%x, %y, n0)",
      "%r: f32[8,16] = aten.add(%x, %y, n1)",
      "%r: f32[8,16] = aten.add(%x, %y, host(n0, f32))",
      "%r: f32[8,16] = aten.add(%x, %y, host(n0, f32, wrapped))",
      "%r: f32[8,16] = aten.add(%x, %y, host(n1, f32))",
      "%r: f32[8,16] = aten.add(%x, %y, host(n0, f64))",
      "%r: f32[8,16] = aten.add(%x, %y, [])",
      "%r: f32[8,16] = aten.add(%x, %y, [0])",
      "%r: f32[8,16] = aten.add(%x, %y, [0,0])",
      "%r: f32[8,16] = aten.add(%x, %y, [0], [])",
      "%r: f32[8,16] = aten.add(%x, %y, [], [0])",
      "%r: f32[8,16] = aten.add(%x, %y, [1], [2,6], [])",  // 6 also stands for the kind of these lists
      "%r: f32[8,16] = aten.add(%x, %y, [1,6,2], [], [])",
      "%r: f32[8,16] = aten.add(%x, %y, float[])",
      "%r: f32[8,16] = aten.add(%x, %y, bool[])",
      "%r: f32[8,16] = aten.add(%x, %y, tensor[])",
      "%r: f32[8,16] = aten.add(%x, %y, number[])",
      "%r: f32[8,16] = aten.add(%x, %y, [0.0])",
      "%r: f32[8,16] = aten.add(%x, %y, [n0])",
      "%r: f32[8,16] = aten.add([%x, %y])",
      "%r: f32[8,16] = aten.add([%x, none, %y])",
      "%r: f32[8,16] = aten.add([%x], [%y])",
      "%r: f32[8,16] = view(%x, offset=0)",
      "%r: f32[4,16] = view(%x, offset=0)",
      "%r: f32[4,16] = view(%x, offset=16)",
      "%r: f32[4,16] = view(%x, offset=n0)",
      "%r: f32[4,16] = view(%x, offset=n1)",
      "%r: f32[4,16] = \"view\"(%x)",
      "%r: f32[8,16] = update(%x, %c, [4]{16}, offset=0)",
      "%r: f32[8,16] = update(%x, %c, [4]{1}, offset=0)",
      "%r: f32[8,16] = update(%x, %c, [4]{16}, offset=1)",
      "%r: f32[8,16] = update(%x, %c, [4]{16}, offset=n0)",
      "%r: f32[8,16] = update(%y, %c, [4]{16}, offset=0)",
  };
  for (size_t i = 0; i < rows.size(); ++i) {
    const uint64_t wanted = hash(filled(rows[i]));
    for (size_t j = 0; j < i; ++j) {
      INFO(rows[i] << "\n" << rows[j]);
      REQUIRE(hash(filled(rows[j])) != wanted);
    }
  }
}

TEST_CASE("hash_sees_inputs_numbers_and_outputs_but_no_dead_node") {
  const auto of = [](const std::string& text) { return hash(parse(text)); };
  const uint64_t wanted = of("graph(%a: f32[2], %b: f32[2]) numbers(i) { %c: f32[2] = f(%a) return %c }");
  CHECK(of("graph(%a: f32[2], %b: f32[2]) numbers(i) { %d: f32[2] = g(%b) %c: f32[2] = f(%a) h(%c) return %c "
           "}") == wanted);
  CHECK(of("graph(%a: f32[2], %b: f32[2]) numbers(i) { %c: f32[2] = f(%b) return %c }") != wanted);
  CHECK(of("graph(%a: f32[2], %b: f32[2]) numbers(i) hints(0: data 0) { %c: f32[2] = f(%a) return %c }") !=
        wanted);
  CHECK(of("graph(%a: f32[2], %b: f32[3]) numbers(i) { %c: f32[2] = f(%a) return %c }") != wanted);
  CHECK(of("graph(%a: f32[2]) numbers(i) { %c: f32[2] = f(%a) return %c }") != wanted);
  CHECK(of("graph(%a: f32[2], %b: f32[2]) numbers(f) { %c: f32[2] = f(%a) return %c }") != wanted);
  CHECK(of("graph(%a: f32[2], %b: f32[2]) { %c: f32[2] = f(%a) return %c }") != wanted);
  CHECK(of("graph(%a: f32[2], %b: f32[2]) numbers(i) { %c: f32[2] = f(%a) return %c, %a }") != wanted);
  CHECK(of("graph(%a: f32[2], %b: f32[2]) numbers(i) { %c: f32[2] = f(%a) return %a, %c }") != wanted);
}

TEST_CASE("structure_hash_is_blind_to_sizes_only") {
  const auto same = [](const std::string& a, const std::string& b, const IsSize& is_size = {}) {
    return structure_hash(filled(a), is_size) == structure_hash(filled(b), is_size);
  };
  CHECK(same("%r: f32[8,16] = f(%x, [8,16])", "%r: f32[4,16] = f(%x, [4,16])"));
  CHECK(same("%r: f32[2,16] = view(%x, offset=0)", "%r: f32[4,16] = view(%x, offset=16)"));
  CHECK(same("%r: f32[1,16] = view(%x, offset=0)", "%r: f32[4,16] = view(%x, offset=0)"));
  CHECK(same("%r: f32[8,16] = update(%x, %c, [4]{16}, offset=0)",
             "%r: f32[8,16] = update(%x, %c, [8]{1}, offset=3)"));
  CHECK_FALSE(same("%r: f32[16,8] = view(%x, offset=0)", "%r: f32[16,8]{1,16} = view(%x, offset=0)"));
  CHECK_FALSE(same("%r: f32[3,16] = view(%x, offset=0)", "%r: f32[3,16]{0,1} = view(%x, offset=0)"));
  CHECK_FALSE(same("%r: f32[3,16]{1,0} = view(%x, offset=0)", "%r: f32[3,16] = view(%x, offset=0)"));
  CHECK(same("%r: f32[8,1,16] = f(%x)", "%r: f32[8,4,16] = f(%x)"));
  CHECK_FALSE(same("%r: f32[8,16] = f(%x)", "%r: bf16[8,16] = f(%x)"));
  CHECK_FALSE(same("%r: f32[8,16] = f(%x)", "%r: f32[128] = f(%x)"));
  CHECK_FALSE(same("%r: f32[8,16] = f(%x, [8,16])", "%r: f32[8,16] = f(%x, [8])"));
  CHECK_FALSE(same("%r: f32[8,16] = f(%x, 1)", "%r: f32[8,16] = f(%x, 2)"));
  CHECK_FALSE(same("%r: f32[8,16] = f(%x)", "%r: f32[8,16] = f(%y)"));

  const IsSize second = [](const Node& node, size_t arg) { return node.op.str() == "f" && arg == 2; };
  CHECK(same("%r: f32[8,16] = f(%x, [1], 8)", "%r: f32[8,16] = f(%x, [1], 9)", second));
  CHECK_FALSE(same("%r: f32[8,16] = f(%x, [1], 8)", "%r: f32[8,16] = f(%x, [0], 8)", second));
}

}  // namespace
}  // namespace moai::ir
