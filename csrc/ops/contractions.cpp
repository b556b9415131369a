#include <algorithm>
#include <string>

#include "ops/rule_builder.h"

namespace moai::ops {

namespace {

void mm(RuleBuilder& b) {
  b.line("i k, k j -> i j");
  b.linear({0});
  b.linear({1});
  b.contraction_flops();
}

void bmm(RuleBuilder& b) {
  b.line("b i k, b k j -> b i j");
  b.linear({0});
  b.linear({1});
  b.contraction_flops();
}

// The first operand is what the product is added to; it broadcasts to `out`, and must be added once.
RuleEntry added(const std::string& product, const std::string& out) {
  return [product, out](RuleBuilder& b) {
    const size_t rank = b.sizes(0).size(), full = (out.size() + 1) / 2;  // names of one letter
    const std::string term = rank == 0 ? "1*" : out.substr(2 * (full - std::min(rank, full)));
    b.line(term + ", " + product + " -> " + out, {0, 1, 2});
    b.additive(b.operand(0));
    b.linear({0, 1});
    b.linear({0, 2});
    b.contraction_flops();
  };
}

// The groups are runs of rows (a's), or of what is summed, that end at the offsets; or a dim of their own.
// https://docs.pytorch.org/docs/2.11/generated/torch.nn.functional.grouped_mm.html
void grouped_mm(RuleBuilder& b) {
  const bool a_3d = b.sizes(0).size() == 3, b_3d = b.sizes(1).size() == 3;
  if (a_3d && b_3d) {
    b.line("g m k, g k n -> g m n", {0, 1});
  } else if (b_3d) {
    b.line("m k, g k n, g -> m n", {0, 1, 2});
  } else if (a_3d) {
    b.line("g m k, k n, g -> m n", {0, 1, 2});
  } else {
    b.line("m k, k n, g -> g m n", {0, 1, 2});
  }
  double groups = 1;
  if (!a_3d || !b_3d) {
    // A part of the groups takes the rows between the offset before it and its last one; the others are zero.
    b.positional("g", Position::kGroups);
    b.replicated(b.operand(2));
    if (b_3d) b.whole("m", "its rows lie in groups that the data decide");
    if (a_3d) b.whole("n", "its columns lie in groups that the data decide");
    if (!a_3d && !b_3d) b.whole("k", "what is summed lies in groups that the data decide");
    for (const auto f : b.factors("g")) groups = static_cast<double>(b.factor_size(f));
  }
  b.linear({0});
  b.linear({1});
  b.contraction_flops(1 / groups);
}

}  // namespace

void add_contractions(RuleTable& table) {
  table["mm"] = mm;
  table["bmm"] = bmm;
  table["addmm"] = added("i k, k j", "i j");
  table["baddbmm"] = added("b i k, b k j", "b i j");
  table["addmv"] = added("i k, k", "i");
  table["addr"] = added("i, j", "i j");
  table["mv"] = [](RuleBuilder& b) {
    b.line("i k, k -> i");
    b.linear({0});
    b.linear({1});
    b.contraction_flops();
  };
  table["dot"] = [](RuleBuilder& b) {
    b.line("k, k ->");
    b.linear({0});
    b.linear({1});
    b.contraction_flops();
  };
  table["_grouped_mm"] = grouped_mm;
}

}  // namespace moai::ops
