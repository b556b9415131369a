#include "ops/host_copies.h"

#include "ops/rule_builder.h"

namespace moai::ops {

ir::Symbol to_host() {
  static const ir::Symbol symbol = ir::Symbol::intern("moai.to_host");
  return symbol;
}

ir::Symbol from_host() {
  static const ir::Symbol symbol = ir::Symbol::intern("moai.from_host");
  return symbol;
}

// No partial sum passes: it would cross as often as it has terms.
void add_host_copies(RuleTable& table) {
  table[to_host().str()] = table[from_host().str()] = [](RuleBuilder& b) {
    b.broadcast();
    b.flops(0);
  };
}

}  // namespace moai::ops
