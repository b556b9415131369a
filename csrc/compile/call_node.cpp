#include "compile/call_node.h"

#include <utility>

namespace moai::compile {

ir::Node call_node(const char* op, std::vector<ir::ValueId> operands, const std::vector<ir::Arg>& more) {
  ir::Node node;
  node.op = ir::Symbol::intern(op);
  for (size_t o = 0; o < operands.size(); ++o)
    node.args.emplace_back(ir::OperandRef{static_cast<int32_t>(o)});
  node.args.insert(node.args.end(), more.begin(), more.end());
  node.operands = std::move(operands);
  return node;
}

std::vector<ir::Arg> to_dtype_args(ir::DType dtype) {
  return {static_cast<int64_t>(dtype), ir::NoneArg{}, ir::NoneArg{}, ir::NoneArg{}, false, ir::NoneArg{}};
}

}  // namespace moai::compile
