#include "ops/expert_rows.h"

#include "ops/rule_builder.h"

namespace moai::ops {

namespace {

// Says the sizes of (e u s), and that experts are had for units. A row's place within either is no part of
// anything.
void slots(RuleBuilder& b, size_t first) {
  b.size("e", b.integer(first));
  b.size("f", b.integer(first));  // the same, where no device has its own
  b.size("u", b.integer(first + 1));
  b.size("s", b.integer(first + 2));
}

void settle(RuleBuilder& b) {
  b.trades("e", "u");
  b.whole("r");
  b.whole("f");
  b.indivisible("s");
}

void assign_slots(RuleBuilder& b) {
  slots(b, 1);
  b.line("(u r) -> (e u s), (e u s), (f u s), (u r)");
  settle(b);
}

// Rows one way or the other, with what is within them.
void rows_move(RuleBuilder& b, const char* line) {
  slots(b, 3);
  b.count("h", b.sizes(0).size() - 1);
  b.line(line);
  settle(b);
  b.linear({0});
  b.flops(0);
}

void slots_mm(RuleBuilder& b) {
  const bool a_3d = b.sizes(0).size() == 3, b_3d = b.sizes(1).size() == 3;
  slots(b, 3);
  if (b_3d) {
    b.line("(e u s) k, e k n, (e u s) -> (e u s) n");
  } else if (a_3d) {
    b.line("e m k, k (e u s), (e u s) -> m (e u s)");
  } else {
    b.line("m (e u s), (e u s) n, (e u s) -> e m n");
  }
  b.indivisible("s");
  b.linear({0});
  b.linear({1});
  const auto all = static_cast<double>(b.integer(3) * b.integer(4) * b.integer(5));
  b.contraction_flops(static_cast<double>(b.integer(6)) / all);
}

void take_experts(RuleBuilder& b) {
  slots(b, 2);
  b.line("e h*, (e u s) -> (e u s) h*");
  b.indivisible("s");
  b.linear({0});
  b.flops(0);
}

void add_to_experts(RuleBuilder& b) {
  slots(b, 3);
  b.line("e h*, (e u s), (e u s) h* -> e h*");
  b.indivisible("s");
  b.additive(0);
  b.linear({0, 2});
}

}  // namespace

const ExpertRows& expert_rows() {
  static const ExpertRows all{
      ir::Symbol::intern("moai.assign_slots"),   ir::Symbol::intern("moai.rows_to_experts"),
      ir::Symbol::intern("moai.rows_to_tokens"), ir::Symbol::intern("moai.slots_mm"),
      ir::Symbol::intern("moai.take_experts"),   ir::Symbol::intern("moai.add_to_experts")};
  return all;
}

bool is_expert_rows(ir::Symbol op) {
  const ExpertRows& all = expert_rows();
  return moves_rows(op) || op == all.mm || op == all.take || op == all.add;
}

void add_expert_rows(RuleTable& table) {
  const ExpertRows& all = expert_rows();
  table[all.assign.str()] = assign_slots;
  table[all.to_experts.str()] = [](RuleBuilder& b) {
    rows_move(b, "(u r) h*, (f u s), (e u s) -> (e u s) h*");
  };
  table[all.to_tokens.str()] = [](RuleBuilder& b) { rows_move(b, "(e u s) h*, (u r), (e u s) -> (u r) h*"); };
  table[all.mm.str()] = slots_mm;
  table[all.take.str()] = take_experts;
  table[all.add.str()] = add_to_experts;
}

}  // namespace moai::ops
