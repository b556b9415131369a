#include "ir/call_node.h"

#include <utility>

namespace moai::ir {

Node call_node(Symbol op, std::vector<ValueId> operands, const std::vector<Arg>& more) {
  Node node;
  node.op = op;
  for (size_t o = 0; o < operands.size(); ++o) node.args.emplace_back(OperandRef{static_cast<int32_t>(o)});
  node.args.insert(node.args.end(), more.begin(), more.end());
  node.operands = std::move(operands);
  return node;
}

Node call_node_like(const Node& like, Symbol op, std::vector<ValueId> operands,
                    const std::vector<Arg>& more) {
  Node node = call_node(op, std::move(operands), more);
  node.section = like.section;
  node.origin = like.origin;
  return node;
}

std::vector<Arg> to_dtype_args(DType dtype) {
  return {static_cast<int64_t>(dtype), NoneArg{}, NoneArg{}, NoneArg{}, false, NoneArg{}};
}

}  // namespace moai::ir
