#include <string>
#include <utility>

#include "catch.h"
#include "ir/error.h"
#include "ir/graph.h"
#include "text_cases.h"

namespace moai::ir {
namespace {

template <typename Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return std::string(error.what()) + "\n";
  }
  return "no error\n";
}

// tests/cpp/cases/verify/*.txt: a graph and the whole message.
TEST_CASE("verify_says_what_is_wrong_and_where") {
  for (const TextCase& text : text_cases("verify")) {
    INFO(text.path);
    const Graph graph = parse(text.part("in"));
    CHECK(error_of([&] { verify(graph); }) == text.part("error"));
  }
}

// tests/cpp/cases/parse/*.txt: the same for a text that is no graph.
TEST_CASE("parse_says_what_is_wrong_and_where") {
  for (const TextCase& text : text_cases("parse")) {
    INFO(text.path);
    CHECK(error_of([&] { parse(text.part("in")); }) == text.part("error"));
  }
}

// What no text can say.

Graph one_node(Node node, std::vector<Type> results = {Type::contiguous(DType::kF32, {4})}) {
  Graph graph;
  graph.add_input(Type::contiguous(DType::kF32, {4}));
  if (node.kind == NodeKind::kOp && node.op == Symbol()) node.op = Symbol::intern("f");
  graph.add_node(std::move(node), std::move(results));
  return graph;
}

TEST_CASE("verify_finds_use_before_definition") {
  Node node;
  node.operands = {1};
  node.args = {OperandRef{0}};
  CHECK(error_of([&] { verify(one_node(node)); }) ==
        "moai graph: %1 is used before it is defined\n"
        "  at node 0: %1: f32[4] = f(%1)\n");
}

TEST_CASE("verify_finds_values_that_do_not_exist") {
  Node node;
  node.args = {OperandRef{0}};
  node.operands = {7};
  CHECK(error_of([&] { verify(one_node(node)); }) ==
        "moai graph: operand %7 does not exist\n"
        "  at node 0: %1: f32[4] = f(%7)\n");
  node.operands = {kNone};
  CHECK_THAT(error_of([&] { verify(one_node(node)); }), ContainsSubstring("operand %-1 does not exist"));
  Graph graph;
  graph.set_outputs({3});
  CHECK(error_of([&] { verify(graph); }) == "moai graph: output %3 does not exist\n");
}

TEST_CASE("verify_finds_bad_types") {
  const auto of = [](Type type) { return error_of([&] { verify(one_node({}, {std::move(type)})); }); };
  CHECK_THAT(of({DType::kF32, {4}, {}}), ContainsSubstring("%1 has another number of strides than of sizes"));
  CHECK_THAT(of({DType::kF32, {-4}, {1}}), ContainsSubstring("%1 has a negative size"));
  CHECK_THAT(of({DType::kF32, {4}, {-1}}), ContainsSubstring("%1 has a negative stride"));
  CHECK_THAT(of({static_cast<DType>(99), {4}, {1}}), ContainsSubstring("%1 has an unknown dtype"));
  constexpr int64_t kHuge = int64_t{1} << 62;
  CHECK_THAT(of({DType::kF32, {kHuge}, {1}}), ContainsSubstring("%1 has more bytes than 64 bits count"));
  CHECK_THAT(of({DType::kF32, {kHuge, kHuge, 0}, {0, 0, 0}}),
             ContainsSubstring("more bytes than 64 bits count"));
  CHECK(of({DType::kF32, {kHuge}, {0}}) == "no error\n");
  Graph graph;
  graph.add_input({DType::kF32, {4}, {}});
  CHECK(error_of([&] { verify(graph); }) ==
        "moai graph: input %0 has another number of strides than of sizes\n");
}

TEST_CASE("verify_finds_results_that_are_not_the_node_s") {
  Graph graph = one_node({});
  graph.node(0).results = {0};
  CHECK_THAT(error_of([&] { verify(graph); }), ContainsSubstring("result 0 is no value of this node"));
  graph.node(0).results = {5};
  CHECK_THAT(error_of([&] { verify(graph); }), ContainsSubstring("result 0 is no value of this node"));
}

TEST_CASE("verify_counts_ties") {
  Node node;
  node.operands = {0};
  node.args = {OperandRef{0}};
  node.tied = {0, kNone};
  CHECK_THAT(error_of([&] { verify(one_node(node)); }), ContainsSubstring("ties for 2 of 1 results"));
}

TEST_CASE("a_bad_view_prints_with_its_operands_listed") {
  Node node;
  node.kind = NodeKind::kView;
  node.operands = {0};
  node.args = {OperandRef{0}, 1.5};
  CHECK(error_of([&] { verify(one_node(node)); }) ==
        "moai graph: a view has one argument, its offset\n"
        "  at node 0: %1: f32[4] = view[%0]($0, 1.5)\n");
}

}  // namespace
}  // namespace moai::ir
