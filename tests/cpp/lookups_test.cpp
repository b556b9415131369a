#include "plan/lookups.h"

#include "catch.h"
#include "ir/graph.h"

using namespace moai;

namespace {

// What the body of a graph with a table %w, tokens %t, and a data set of them %d looks up.
plan::Lookups of(const std::string& body) {
  const std::string inputs =
      "graph(%w: f32[100,8], %p: f32[64,8], %t: i64[2,16], %d: i64[620,4]) numbers(i, i, i, i) {\n";
  return plan::find_lookups(ir::parse(inputs + body + "return %a\n}"));
}

const std::string kTokens = "%a: f32[2,16,8] = aten.embedding(%w, %t, n0)\n";

}  // namespace

TEST_CASE("tokens_are_what_the_most_used_table_is_asked_for") {
  CHECK(of(kTokens).tokens == 32);
  CHECK(of(kTokens).sizes == std::vector<int64_t>{2, 16});
  // A part of a data set that lies on the devices, and not the data set.
  CHECK(of("%s: i64[35,4] = moai.slice(%d, 0, 70, 35, 1)\n%a: f32[35,4,8] = aten.embedding(%w, %s, n0)\n")
            .tokens == 140);
  CHECK(of("%a: f32[2,16] = aten.add.Tensor(%w, %w, n0)\n").tokens == 0);
}

TEST_CASE("rounds_add_up_and_what_backward_repeats_does_not") {
  const std::string cut = "%s: i64[2,16] = moai.slice(%d, 0, 0, 2, 1)\n";
  CHECK(of(kTokens + cut + "%b: f32[2,16,8] = aten.embedding(%w, %s, n0)\n").tokens == 64);
  CHECK(of(kTokens + "%b: f32[2,16,8] = aten.embedding(%w, %t, n0)\n").tokens == 32);
  CHECK(of(kTokens + cut + "%b: f32[2,16,8] = !bw aten.embedding(%w, %s, n0)\n").tokens == 32);
}

TEST_CASE("positions_that_a_step_counts_are_no_tokens") {
  CHECK(of("%i: i64[64] = aten.arange(n0, n1)\n%b: f32[64,8] = aten.embedding(%p, %i, n2)\n" + kTokens)
            .tokens == 32);
}
