#include "ops/rule_builder.h"

namespace moai::ops {

namespace {

enum Reduction { kNone = 0, kMean = 1, kSum = 2 };

constexpr const char* kWeights = "the mean is by a count that each part has for all classes";

// input (n, c) or (c), target (n) -> the loss and the weights' total. Where the classes are split, a part
// answers for the targets in its range.
void nll(RuleBuilder& b, const char* rows, const char* one) {
  const bool batched = b.sizes(0).size() > 1;
  const int64_t reduction = b.integer(3, kMean);
  b.line(batched ? rows : one, {0, 1, 2});
  b.positional("c", Position::kTarget, b.operand(1), 4);
  b.combine("c", Combine::kSum, 0);
  b.combine("c", Combine::kSum, 1);
  if (reduction == kMean) {
    b.combine("n", Combine::kWeighted, 0);
    b.combine("s", Combine::kWeighted, 0);
    b.whole("c", kWeights);
  }
  b.combine("n", Combine::kSum, 1);
  if (reduction == kNone) b.combine("n", Combine::kSame, 1);
}

void nll_forward(RuleBuilder& b) {
  const bool none = b.integer(3, kMean) == kNone;
  nll(b, none ? "n c, n, c -> n, 1*" : "n c, n, c -> 1*, 1*", "c, 1*, c -> 1*, 1*");
}

void nll2d_forward(RuleBuilder& b) {
  const bool none = b.integer(3, kMean) == kNone;
  b.count("s", 2);
  nll(b, none ? "n c s*, n s*, c -> n s*, 1*" : "n c s*, n s*, c -> 1*, 1*", "c s*, s*, c -> 1*, 1*");
  if (none) b.combine("s", Combine::kSame, 1);
}

void nll_backward(RuleBuilder& b) {
  const bool batched = b.sizes(1).size() > 1;
  const bool none = b.integer(4, kMean) == kNone;
  if (batched) {
    b.line(none ? "n, n c, n, c, 1* -> n c" : "1*, n c, n, c, 1* -> n c", {0, 1, 2, 3, 6});
  } else {
    b.line("1*, c, 1*, c, 1* -> c", {0, 1, 2, 3, 6});
  }
  b.positional("c", Position::kTarget, b.operand(2), 5);
  b.linear({0});
}

void nll2d_backward(RuleBuilder& b) {
  const bool none = b.integer(4, kMean) == kNone;
  b.count("s", 2);
  b.line(none ? "n s*, n c s*, n s*, c, 1* -> n c s*" : "1*, n c s*, n s*, c, 1* -> n c s*", {0, 1, 2, 3, 6});
  b.positional("c", Position::kTarget, b.operand(2), 5);
  b.linear({0});
}

// input and target alike; the reduction is argument `at`.
RuleEntry elementwise(size_t at) {
  return [at](RuleBuilder& b) {
    const int64_t reduction = b.integer(at, kMean);
    if (reduction == kNone) return b.broadcast();
    b.line("d*, d* -> 1*", {0, 1});
    b.combine("d", reduction == kMean ? Combine::kMean : Combine::kSum);
    if (b.node().operands.size() > 2) b.whole("d", "its weights broadcast");
  };
}

RuleEntry elementwise_backward(size_t at) {
  return [at](RuleBuilder& b) {
    b.broadcast();
    b.linear({0});
    if (b.integer(at, kMean) == kMean) b.averaged(0);
  };
}

}  // namespace

void add_losses(RuleTable& table) {
  table["nll_loss_forward"] = nll_forward;
  table["nll_loss2d_forward"] = nll2d_forward;
  table["nll_loss_backward"] = nll_backward;
  table["nll_loss2d_backward"] = nll2d_backward;
  table["mse_loss"] = table["huber_loss"] = table["smooth_l1_loss"] = elementwise(2);
  table["mse_loss_backward"] = table["smooth_l1_loss_backward"] = elementwise_backward(3);
  table["huber_loss_backward"] = table["soft_margin_loss_backward"] = elementwise_backward(3);
  table["soft_margin_loss"] = elementwise(2);
  table["binary_cross_entropy"] = elementwise(3);
  table["binary_cross_entropy_backward"] = elementwise_backward(4);
  table["binary_cross_entropy_with_logits"] = elementwise(4);
}

}  // namespace moai::ops
