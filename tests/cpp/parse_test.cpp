#include <algorithm>
#include <string>

#include "catch.h"
#include "ir/error.h"
#include "ir/graph.h"
#include "random_graph.h"

namespace moai::ir {
namespace {

bool is_plain_ascii(const std::string& text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c == '\n' || (c >= ' ' && c <= '~'); });
}

TEST_CASE("parse_inverts_print") {
  for (uint32_t seed = 0; seed < 3000; ++seed) {
    INFO("seed " << seed);
    RandomGraph random(seed);
    const Graph graph = random.make(1 + seed % 20);
    verify(graph);
    const std::string text = print(graph);
    INFO(text);
    REQUIRE(is_plain_ascii(text));
    const Graph again = parse(text);
    verify(again);
    REQUIRE(print(again) == text);
    REQUIRE(hash(again) == hash(graph));
    REQUIRE(again.nodes().size() == graph.nodes().size());
    for (size_t i = 0; i < graph.values().size(); ++i) {
      REQUIRE(again.values()[i].type == graph.values()[i].type);
      REQUIRE(again.values()[i].producer == graph.values()[i].producer);
    }
    REQUIRE(again.outputs() == graph.outputs());
  }
}

TEST_CASE("parse_of_damaged_text_gives_a_graph_or_an_error") {
  int errors = 0;
  int graphs = 0;
  for (uint32_t seed = 0; seed < 20000; ++seed) {
    INFO("seed " << seed);
    RandomGraph random(seed % 500);
    RandomViews damage(seed);
    std::string text = print(random.make(6));
    for (int64_t left = 1 + damage.below(2); left > 0 && !text.empty(); --left) {
      const auto at = static_cast<size_t>(damage.below(static_cast<int64_t>(text.size())));
      const auto from = static_cast<size_t>(damage.below(static_cast<int64_t>(text.size())));
      const auto length = static_cast<size_t>(1 + damage.below(8));
      switch (damage.below(5)) {
        case 0: text.erase(at, length); break;
        case 1: text[at] = static_cast<char>(damage.below(256)); break;
        case 2: text.insert(at, text.substr(from, length)); break;
        case 3: text[at] = "%$@{}[](),=0-9.n#\""[damage.below(18)]; break;
        case 4: text.insert(at, "99999999999"); break;
      }
    }
    try {
      const Graph graph = parse(text);
      verify(graph);
      ++graphs;
      REQUIRE(hash(parse(print(graph))) == hash(graph));
    } catch (const Error&) {
      ++errors;
    }
  }
  REQUIRE(errors > 1000);
  REQUIRE(graphs > 1000);
}

TEST_CASE("values_may_have_any_names") {
  const Graph graph =
      parse("graph(%x: f32[2], %weight.1: f32[2]) { %y: f32[2] = aten.add(%x, %weight.1) return %y }");
  REQUIRE(print(graph) ==
          "graph(%0: f32[2], %1: f32[2]) {\n"
          "  %2: f32[2] = aten.add(%0, %1)\n"
          "  return %2\n"
          "}\n");
}

TEST_CASE("an_empty_list_keeps_its_kind") {
  const std::string text =
      "graph() {\n"
      "  op([], float[], bool[], tensor[], number[], bool, [none])\n"
      "  return\n"
      "}\n";
  const Graph graph = parse(text);
  REQUIRE(print(graph) == text);
  const std::vector<Arg> wanted{
      Dims(),          std::vector<double>(),  std::vector<bool>(),    OperandListRef{},
      NumberListRef{}, DTypeArg{DType::kBool}, OperandListRef{{kNone}}};
  REQUIRE(graph.node(0).args == wanted);
}

}  // namespace
}  // namespace moai::ir
