#include "ops/routed_rows.h"

#include "ops/rule_builder.h"

namespace moai::ops {

namespace {

// Of `rows` rows so many belong to each token: `(t c)` in a line, where `t` are the tokens.
void choices(RuleBuilder& b, int64_t rows, int64_t each) {
  if (each < 1 || rows % each != 0) b.contradiction("its rows are not as many for each token");
  b.size("c", each);
}

void choices_of_tokens(RuleBuilder& b, int64_t rows, int64_t tokens) {
  choices(b, rows, tokens > 0 && rows % tokens == 0 ? rows / tokens : 0);
}

// What is within rows.
void columns(RuleBuilder& b) { b.count("h", b.sizes(0).size() - 1); }

void sort_rows(RuleBuilder& b) {
  if (const int64_t units = b.integer(2); units > 0) {
    b.size("u", units);
    b.line("(u r) -> (u r), (u r)");
    b.whole("r");
    return;
  }
  choices(b, b.sizes(0)[0], b.integer(1));
  b.line("(t c) -> (t c), (t c)");
  b.indivisible("c");
}

void take_rows(RuleBuilder& b) {
  columns(b);
  choices_of_tokens(b, b.sizes(1)[0], b.sizes(0)[0]);
  b.line("t h*, (t c) -> (t c) h*");
  b.linear({0});
  b.flops(0);
}

void put_rows(RuleBuilder& b) {
  columns(b);
  choices_of_tokens(b, b.sizes(1)[0], b.sizes(0)[0]);
  b.line("t h*, (t c), (t c) h* -> t h*");
  b.linear({0, 2});
}

void return_rows(RuleBuilder& b) {
  columns(b);
  b.line("t h*, t -> t h*");
  b.linear({0});
  b.flops(0);
}

// Offsets are found in the ids of the part's own rows.
void grouped_rows_mm(RuleBuilder& b) {
  const bool a_3d = b.sizes(0).size() == 3, b_3d = b.sizes(1).size() == 3;
  if (b_3d) {
    b.line("m k, g k n, m -> m n");
  } else if (a_3d) {
    b.line("g m k, k n, n -> m n");
  } else {
    b.line("m k, k n, k -> g m n");
  }
  b.positional("g", Position::kGroups);
  b.linear({0});
  b.linear({1});
  b.contraction_flops(1 / static_cast<double>(b.integer(3)));
}

}  // namespace

const RoutedRows& routed_rows() {
  static const RoutedRows all{
      ir::Symbol::intern("moai.sort_rows"),   ir::Symbol::intern("moai.inverse_rows"),
      ir::Symbol::intern("moai.take_rows"),   ir::Symbol::intern("moai.grouped_rows_mm"),
      ir::Symbol::intern("moai.return_rows"), ir::Symbol::intern("moai.put_rows")};
  return all;
}

bool is_routed_rows(ir::Symbol op) {
  const RoutedRows& all = routed_rows();
  return op == all.sort || op == all.inverse || op == all.take || op == all.grouped_mm ||
         op == all.give_back || op == all.put;
}

void add_routed_rows(RuleTable& table) {
  const RoutedRows& all = routed_rows();
  table[all.sort.str()] = sort_rows;
  table[all.inverse.str()] = [](RuleBuilder& b) { b.line("t -> t"); };
  table[all.take.str()] = take_rows;
  table[all.put.str()] = put_rows;
  table[all.give_back.str()] = return_rows;
  table[all.grouped_mm.str()] = grouped_rows_mm;
}

}  // namespace moai::ops
