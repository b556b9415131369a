#include "ir/passes.h"

#include <algorithm>
#include <functional>
#include <set>
#include <string>
#include <utility>

#include "catch.h"
#include "interpret.h"
#include "random_graph.h"
#include "text_cases.h"

namespace moai::ir {
namespace {

using Pass = std::function<Graph(const Graph&)>;

const std::pair<const char*, Pass> kPasses[] = {
    {"dead_code", eliminate_dead_code},
    {"common_subexpressions", merge_common_subexpressions},
    {"needless_copies", remove_needless_copies},
    {"canonical_views", [](const Graph& graph) { return canonicalise_views(graph); }},
};

// tests/cpp/cases/<pass>/*.txt: a graph and what the pass makes of it.
TEST_CASE("passes_as_text") {
  for (const auto& [name, pass] : kPasses) {
    for (const TextCase& text : text_cases(name)) {
      INFO(text.path);
      const Graph graph = parse(text.part("in"));
      verify(graph);
      const Graph result = pass(graph);
      verify(result);
      CHECK(print(result) == print(parse(text.part("out"))));
    }
  }
}

bool keeps_outputs_apart(const Graph& graph, const Graph& result) {
  const std::set<ValueId> before(graph.outputs().begin(), graph.outputs().end());
  const std::set<ValueId> after(result.outputs().begin(), result.outputs().end());
  return before.size() == after.size();
}

bool keeps_outputs_whole(const Graph& graph, const Graph& result) {
  const auto is_storage = [](const Graph& of, ValueId output) {
    const NodeId producer = of.value(output).producer;
    return producer != kNone && of.node(producer).kind != NodeKind::kView;
  };
  for (size_t i = 0; i < graph.outputs().size(); ++i) {
    if (is_storage(graph, graph.outputs()[i]) && !is_storage(result, result.outputs()[i])) return false;
  }
  return true;
}

TEST_CASE("passes_keep_what_a_graph_computes") {
  for (const auto& [name, pass] : kPasses) {
    int64_t fewer = 0;
    for (uint32_t seed = 0; seed < 1500; ++seed) {
      INFO(name << ", seed " << seed);
      RandomGraph random(seed);
      const Graph graph = random.make(2 + seed % 24);
      const Graph result = pass(graph);
      INFO(print(graph) << print(result));
      verify(result);
      REQUIRE(result.inputs().size() == graph.inputs().size());
      REQUIRE(result.numbers() == graph.numbers());
      for (size_t i = 0; i < graph.inputs().size(); ++i) {
        REQUIRE(result.type(result.inputs()[i]) == graph.type(graph.inputs()[i]));
      }
      for (size_t i = 0; i < graph.outputs().size(); ++i) {
        REQUIRE(result.type(result.outputs()[i]) == graph.type(graph.outputs()[i]));
      }
      REQUIRE(keeps_outputs_apart(graph, result));
      REQUIRE(keeps_outputs_whole(graph, result));
      REQUIRE(interpret(result, random.numbers()) == interpret(graph, random.numbers()));
      fewer += static_cast<int64_t>(graph.nodes().size()) - static_cast<int64_t>(result.nodes().size());
      REQUIRE(print(pass(result)) == print(pass(pass(result))));
    }
    INFO(name << " saved " << fewer);
    CHECK((fewer > 200 || std::string(name) == "canonical_views"));
  }
}

TEST_CASE("canonical_views_with_numbers_leave_no_view_of_a_dense_value") {
  int steps = 0;
  for (uint32_t seed = 0; seed < 1500; ++seed) {
    INFO("seed " << seed);
    RandomGraph random(seed);
    const Graph graph = random.make(12);
    const Graph result = canonicalise_views(graph, random.numbers());
    INFO(print(graph) << print(result));
    verify(result);
    REQUIRE(interpret(result, random.numbers()) == interpret(graph, random.numbers()));
    for (const Node& node : result.nodes()) {
      steps += node.op.str().rfind("moai.", 0) == 0;
      if (node.kind != NodeKind::kView) continue;
      const Type& base = result.type(node.operands[0]);
      REQUIRE((!base.is_dense() || base.dtype != result.type(node.results[0]).dtype));
    }
  }
  REQUIRE(steps > 1000);
}

TEST_CASE("sections_never_merge_but_for_views") {
  for (uint32_t seed = 0; seed < 1500; ++seed) {
    RandomGraph random(seed);
    const Graph graph = random.make(20);
    const Graph result = merge_common_subexpressions(graph);
    // A backward op that was needed is still a backward op: count those that cannot have merged among
    // themselves.
    std::set<std::string> before;
    std::set<std::string> after;
    const auto ops = [](const Graph& of, std::set<std::string>* names) {
      for (const Node& node : of.nodes()) {
        if (node.kind == NodeKind::kOp && node.section == Section::kBackward) names->insert(node.op.str());
      }
    };
    ops(graph, &before);
    ops(result, &after);
    REQUIRE(before == after);
  }
}

}  // namespace
}  // namespace moai::ir
