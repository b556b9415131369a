#include <algorithm>
#include <array>

#include "ops/rule_builder.h"

namespace moai::ops {

namespace {

// Keys and values have a sequence of their own (t): its parts' results can be joined by their log-sum-exp,
// which is no reduction of ours, so it lies whole. With a causal mask a part must know where its queries
// start.
void say(RuleBuilder& b, bool causal, int32_t causal_arg, int32_t mask_arg) {
  b.whole("t", "each query sees every key");
  b.whole("d", "scores are summed over it");
  b.whole("e");
  if (causal) b.positional("s", Position::kQuery, causal_arg, mask_arg);
}

// Query heads are (key head, which of those that share it).
void share_heads(RuleBuilder& b, int q, int k) {
  for (const int arg : {q, k}) {
    const auto& sizes = b.sizes(b.operand(arg));
    if (sizes.size() != 4 || sizes[1] == 0) b.contradiction("its heads are not the second of four dims");
  }
  const int64_t heads = b.sizes(b.operand(k))[1];
  b.size("k", heads);
  b.size("r", b.sizes(b.operand(q))[1] / heads);
}

// A mask broadcasts against (b, k r, s, t).
std::string mask_term(const RuleBuilder& b, size_t arg) {
  constexpr std::array kDims{"b", "(k r)", "s", "t"};
  const int32_t mask = b.operand(arg);
  if (mask == ir::kNone) return "";
  std::string term = ",";
  for (size_t d = kDims.size() - std::min(kDims.size(), b.sizes(mask).size()); d < kDims.size(); ++d)
    term += std::string(" ") + kDims[d];
  return term;
}

// Scores and the weighted sum of values, forward; five products, backward. Half of them where half of the
// scores are masked.
double products(const RuleBuilder& b, int q, int v, double first, double second) {
  const auto& queries = b.sizes(b.operand(q));
  const auto& values = b.sizes(b.operand(v));
  if (queries.size() != 4 || values.size() != 4) b.contradiction("it does not have four dims");
  double scores = 2;
  for (size_t d = 0; d + 1 < queries.size(); ++d) scores *= static_cast<double>(queries[d]);
  scores *= static_cast<double>(values[2]);
  return scores * (first * static_cast<double>(queries[3]) + second * static_cast<double>(values[3]));
}

void forward(RuleBuilder& b) {
  const bool causal = b.flag(4);
  share_heads(b, 0, 1);
  b.line("b (k r) s d, b k t d, b k t e" + mask_term(b, 5) + " -> b (k r) s e, b (k r) s", {0, 1, 2, 5});
  say(b, causal, 4, 5);
  b.flops(products(b, 0, 2, 1, 1) * (causal ? 0.5 : 1));
}

void backward(RuleBuilder& b) {
  const bool causal = b.flag(7);
  share_heads(b, 1, 2);
  b.line("b (k r) s e, b (k r) s d, b k t d, b k t e, b (k r) s e, b (k r) s" + mask_term(b, 8) +
             " -> b (k r) s d, b k t d, b k t e",
         {0, 1, 2, 3, 4, 5, 8});
  say(b, causal, 7, 8);
  b.flops(products(b, 1, 3, 3, 2) * (causal ? 0.5 : 1));
  // Blocks of keys add up the queries' gradient in fp32, beside a sum for each row (Dao 2023).
  std::vector<int32_t> rows;
  for (const char* name : {"b", "k", "r", "s"}) {
    for (const auto f : b.factors(name)) rows.push_back(f);
  }
  b.scratch(4, rows);
  for (const auto f : b.factors("d")) rows.push_back(f);
  b.scratch(4, std::move(rows));
}

}  // namespace

void add_attention(RuleTable& table) {
  table["_scaled_dot_product_flash_attention_for_cpu"] = forward;
  table["_scaled_dot_product_flash_attention_for_cpu_backward"] = backward;
}

}  // namespace moai::ops
