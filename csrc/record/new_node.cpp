#include "record/new_node.h"

#include <algorithm>

#include "ir/error.h"
#include "record/encode.h"

namespace moai::record {

namespace {

// Turns the call into what a graph holds; the mirror of encode, for an op seen for the first time.
class Describe {
 public:
  Describe(Segment& segment, const OpSchema& op, TraceNode& node, int32_t first_number)
      : segment_(segment), op_(op), node_(node), number_(first_number) {}

  void arguments(at::ArrayRef<at::IValue> args) {
    for (size_t i = 0; i < op_.args.size(); ++i) {
      argument_ = static_cast<int16_t>(i);
      node_.args.push_back(argument(op_.args[i], args[i]));
    }
    if (op_.random) {
      node_.args.emplace_back(number(ir::NumberKind::kInt));
      node_.args.emplace_back(number(ir::NumberKind::kInt));
    }
  }

 private:
  ir::NumberRef number(ir::NumberKind kind) {
    node_.number_kinds.push_back(kind);
    return {number_++};
  }

  ir::Arg tensor(const at::Tensor& tensor, int16_t element) {
    if (!tensor.defined()) return ir::NoneArg{};
    if (!is_moai(tensor)) {
      const bool is_float = at::isFloatingType(tensor.scalar_type());
      const auto n = number(is_float ? ir::NumberKind::kFloat : ir::NumberKind::kInt);
      return ir::HostScalarArg{n.index, to_ir(tensor.scalar_type()),
                               tensor.unsafeGetTensorImpl()->is_wrapped_number()};
    }
    Storage& storage = storage_of(tensor);
    TensorUse use;
    use.ref = ref_of(segment_, storage);
    use.storage = storage.layout;
    use.view = layout_of(tensor);
    use.written = op_.written[argument_];
    use.offset_number = number(ir::NumberKind::kInt).index;
    if (use.written) node_.writes.push_back({static_cast<int32_t>(node_.uses.size()), argument_, element});
    node_.uses.push_back(use);
    return ir::OperandRef{static_cast<int32_t>(node_.uses.size()) - 1};
  }

  ir::Arg scalar(const at::IValue& value) {
    if (value.isNone()) return ir::NoneArg{};
    if (value.isComplexDouble()) {
      const auto c = value.toComplexDouble();
      return std::vector<double>{c.real(), c.imag()};
    }
    if (op_.static_numbers) {
      if (value.isDouble()) return value.toDouble();
      if (value.isInt()) return value.toInt();
      return value.toBool();
    }
    return number(value.isDouble() ? ir::NumberKind::kFloat
                  : value.isInt()  ? ir::NumberKind::kInt
                                   : ir::NumberKind::kBool);
  }

  static ir::Arg fixed(const at::IValue& value) {
    if (value.isNone()) return ir::NoneArg{};
    if (value.isInt()) return value.toInt();
    if (value.isBool()) return value.toBool();
    if (value.isDouble()) return value.toDouble();
    if (value.isString()) return value.toStringRef();
    if (value.isBoolList()) {
      const auto list = value.toBoolList();
      return std::vector<bool>(list.begin(), list.end());
    }
    if (value.isDoubleList()) return value.toDoubleVector();
    return value.toIntVector();
  }

  ir::Arg argument(ArgKind kind, const at::IValue& value) {
    switch (kind) {
      case ArgKind::kTensor: return value.isNone() ? ir::Arg(ir::NoneArg{}) : tensor(value.toTensor(), -1);
      case ArgKind::kTensorList: {
        if (value.isNone()) return ir::NoneArg{};
        ir::OperandListRef list;
        int16_t element = 0;
        for (const auto& entry : value.toListRef()) {
          const ir::Arg one = entry.isNone() ? ir::Arg(ir::NoneArg{}) : tensor(entry.toTensor(), element);
          if (const auto* operand = std::get_if<ir::OperandRef>(&one)) {
            list.operands.push_back(operand->operand);
          } else {
            // Host scalars in lists are turned away in `recordable`.
            list.operands.push_back(ir::kNone);
          }
          ++element;
        }
        return list;
      }
      case ArgKind::kScalar: return scalar(value);
      case ArgKind::kScalarList: {
        if (value.isNone()) return ir::NoneArg{};
        ir::NumberListRef list;
        for (const auto& entry : value.toListRef())
          list.indices.push_back(std::get<ir::NumberRef>(scalar(entry)).index);
        return list;
      }
      case ArgKind::kStatic: return fixed(value);
      default: return ir::NoneArg{};
    }
  }

  Segment& segment_;
  const OpSchema& op_;
  TraceNode& node_;
  int32_t number_;
  int16_t argument_ = 0;
};

int32_t count_fresh(const std::vector<ReturnSpec>& returns) {
  int32_t n = 0;
  for (const auto& spec : returns) {
    if (spec.kind == ReturnSpec::Kind::kFresh) ++n;
    if (spec.kind == ReturnSpec::Kind::kList) n += count_fresh(spec.list);
  }
  return n;
}

}  // namespace

const char* not_recordable(const OpSchema& op, at::ArrayRef<at::IValue> args) {
  std::vector<const void*> written;
  for (size_t i = 0; i < op.args.size(); ++i) {
    const auto look = [&](const at::IValue& value) -> const char* {
      if (!value.isTensor() || !value.toTensor().defined()) return nullptr;
      const at::Tensor& tensor = value.toTensor();
      if (!is_moai(tensor)) {
        if (op.args[i] == ArgKind::kTensorList) return "holds a CPU number in a list of tensors";
        return op.written[i] ? "writes a CPU tensor" : nullptr;
      }
      if (op.written[i]) written.push_back(&storage_of(tensor));
      return nullptr;
    };
    if (op.args[i] == ArgKind::kTensor) {
      if (const char* why = look(args[i])) return why;
    } else if (op.args[i] == ArgKind::kTensorList && args[i].isList()) {
      for (const auto& element : args[i].toListRef()) {
        if (const char* why = look(element)) return why;
      }
    } else if (op.args[i] == ArgKind::kScalarList && args[i].isList() && !op.static_numbers) {
      for (const auto& element : args[i].toListRef()) {
        if (element.isComplexDouble()) return "takes a list of complex numbers";
      }
    }
  }
  std::sort(written.begin(), written.end());
  const bool twice = std::adjacent_find(written.begin(), written.end()) != written.end();
  return twice ? "writes one storage twice" : nullptr;
}

std::unique_ptr<TraceNode> new_node(const OpSchema& op, at::ArrayRef<at::IValue> args, Segment& segment,
                                    std::vector<int64_t> key, Inferred inferred, int32_t first_number) {
  auto node = std::make_unique<TraceNode>();
  node->op = &op;
  node->key = std::move(key);
  node->first_number = first_number;
  node->first_value = segment.next_value;
  node->depth = segment.at->depth + 1;
  node->parent = segment.at;
  Describe(segment, op, *node, first_number).arguments(args);
  for (size_t w = 0; w < node->writes.size(); ++w) {
    node->uses[node->writes[w].use].resized = inferred.resized[w];
  }
  node->returns = std::move(inferred.returns);
  // What the default dtype was when the call was made: it may be another one when the op runs.
  if (op.factory_dtype >= 0 && std::holds_alternative<ir::NoneArg>(node->args[op.factory_dtype])) {
    if (const Layout* made = node->returns[0].layout)
      node->args[op.factory_dtype] = static_cast<int64_t>(made->type.dtype);
  }
  node->value_count = static_cast<int32_t>(node->writes.size()) + count_fresh(node->returns);
  return node;
}

std::string describe_difference(const TraceNode& known, const TraceNode& now) {
  const std::string where = now.where.empty() ? "" : " at " + now.where;
  if (known.op != now.op)
    return concat("op ", now.depth, where, " is ", now.op->name.str(), ", was ", known.op->name.str());
  if (known.uses.size() == now.uses.size()) {
    for (size_t i = 0; i < now.uses.size(); ++i) {
      const auto& a = known.uses[i];
      const auto& b = now.uses[i];
      if (a.view != b.view) {
        return concat("op ", now.depth, where, ", ", now.op->name.str(), ": tensor ", i, " is ",
                      b.view->type.str(), ", was ", a.view->type.str());
      }
      if (a.ref != b.ref)
        return concat("op ", now.depth, where, ", ", now.op->name.str(), ": tensor ", i, " is another value");
    }
  }
  return concat("op ", now.depth, where, ", ", now.op->name.str(), ": a static argument differs");
}

}  // namespace moai::record
