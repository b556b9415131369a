#include "ops/rule_builder.h"

namespace moai::ops {

namespace {

// A backward pass returns, of the three gradients, those that its mask asks for; the others have no result.
struct Gradients {
  explicit Gradients(const ir::Node& node, size_t mask_arg) {
    const std::vector<bool>* mask = nullptr;
    if (mask_arg < node.args.size()) mask = std::get_if<std::vector<bool>>(&node.args[mask_arg]);
    int32_t next = 0;
    for (size_t i = 0; i < 3; ++i) {
      const bool asked = mask == nullptr || (i < mask->size() && (*mask)[i]);
      result[i] = asked && next < static_cast<int32_t>(node.results.size()) ? next++ : ir::kNone;
    }
  }
  // The right side of a line, of the gradients that exist.
  std::string line(const std::string& left, const char* input, const char* weight, const char* bias) const {
    std::string text = left + " ->";
    bool first = true;
    const char* terms[] = {input, weight, bias};
    for (int i = 0; i < 3; ++i) {
      if (result[i] == ir::kNone) continue;
      text += std::string(first ? " " : ", ") + terms[i];
      first = false;
    }
    return text;
  }
  int32_t result[3];
};

constexpr const char* kOverRow = "it is normalised over";

void layer_norm(RuleBuilder& b) {
  b.count("c", b.integers(1).size());
  b.line("r* c*, c*, c* -> r* c*, r* 1*, r* 1*", {0, 2, 3});
  b.whole("c", kOverRow);
}

void layer_norm_backward(RuleBuilder& b) {
  const Gradients g(b.node(), 7);
  b.count("c", b.integers(2).size());
  b.line(g.line("r* c*, r* c*, r* 1*, r* 1*, c*, c*", "r* c*", "c*", "c*"), {0, 1, 3, 4, 5, 6});
  b.whole("c", kOverRow);
  b.linear({0});
}

void rms_norm(RuleBuilder& b) {
  b.count("c", b.integers(1).size());
  b.line("r* c*, c* -> r* c*, r* 1*", {0, 2});
  b.whole("c", kOverRow);
}

void rms_norm_backward(RuleBuilder& b) {
  b.count("c", b.integers(2).size());
  b.line("r* c*, r* c*, r* 1*, c* -> r* c*, c*", {0, 1, 3, 4});
  b.whole("c", kOverRow);
  b.linear({0});
}

constexpr const char* kOverBatch = "its statistics are over the batch";

void batch_norm(RuleBuilder& b, bool training) {
  // As recorded, the running statistics that it writes come first.
  if (b.sizes(0).size() < 2) b.contradiction("it has no dim of channels");
  const bool writes = b.result_count() > 3;
  b.line(writes ? "n c s*, c, c, c, c -> c, c, n c s*" : "n c s*, c, c, c, c -> n c s*", {0, 1, 2, 3, 4});
  for (size_t r = writes ? 3 : 1; r < b.result_count(); ++r) {
    const auto channel = b.factors("c");
    const bool is_saved = b.result_sizes(r) == ir::Dims{b.sizes(0)[1]};  // empty where nothing was computed
    if (is_saved && !channel.empty()) b.say_result(r, {{channel[0]}});
  }
  if (!training) {
    b.combine("n", Combine::kSame);
    b.combine("s", Combine::kSame);
    return;
  }
  b.whole("n", kOverBatch);
  b.whole("s", kOverBatch);
}

void batch_norm_backward(RuleBuilder& b) {
  const Gradients g(b.node(), 9);
  if (!b.flag(7, true)) {
    b.line(g.line("n c s*, n c s*, c, c, c", "n c s*", "c", "c"), {0, 1, 2, 3, 4});
  } else {
    b.line(g.line("n c s*, n c s*, c, c, c, c, c", "n c s*", "c", "c"), {0, 1, 2, 3, 4, 5, 6});
    b.whole("n", kOverBatch);
    b.whole("s", kOverBatch);
  }
  b.linear({0});
}

// Channels are (group, channel of the group): a split by groups splits every dim of channels.
void group_norm(RuleBuilder& b) {
  b.size("g", b.integer(6, 1));
  b.line("n (g c) s*, (g c), (g c) -> n (g c) s*, n g, n g", {0, 1, 2});
  b.size_argument(3, {"n"});
  b.size_argument(4, {"g", "c"});
  b.size_argument(6, {"g"});
  b.whole("c", kOverRow);
  b.whole("s", kOverRow);
}

void group_norm_backward(RuleBuilder& b) {
  const Gradients g(b.node(), 9);
  b.size("g", b.integer(8, 1));
  b.line(g.line("n (g c) s*, n (g c) s*, n g, n g, (g c)", "n (g c) s*", "(g c)", "(g c)"), {0, 1, 2, 3, 4});
  b.size_argument(5, {"n"});
  b.size_argument(6, {"g", "c"});
  b.size_argument(8, {"g"});
  b.whole("c", kOverRow);
  b.whole("s", kOverRow);
  b.linear({0});
}

}  // namespace

void add_normalisations(RuleTable& table) {
  table["native_layer_norm"] = layer_norm;
  table["native_layer_norm_backward"] = layer_norm_backward;
  table["_fused_rms_norm"] = rms_norm;
  table["_fused_rms_norm_backward"] = rms_norm_backward;
  table["native_batch_norm"] = [](RuleBuilder& b) { batch_norm(b, b.flag(5, true)); };
  table["_native_batch_norm_legit"] = table["native_batch_norm"];
  table["_native_batch_norm_legit_no_training"] = [](RuleBuilder& b) { batch_norm(b, false); };
  table["native_batch_norm_backward"] = batch_norm_backward;
  table["native_group_norm"] = group_norm;
  table["native_group_norm_backward"] = group_norm_backward;
}

}  // namespace moai::ops
