#include "compile/local/local_builder.h"

#include <algorithm>
#include <numeric>

#include "ir/call_node.h"
#include "ir/error.h"
#include "ir/view.h"

namespace moai::compile {

using ir::Dims;
using ir::Type;
using ir::ValueId;

namespace {

// Device, layout and memory arguments of operators that make tensors.
std::vector<ir::Arg> filled(const Dims& sizes, double value, ir::DType dtype) {
  return {sizes, value, static_cast<int64_t>(dtype), ir::NoneArg{}, ir::NoneArg{}, ir::NoneArg{}};
}

Type after(const Type& from, ir::ViewStep::Kind kind, const Dims& dims) {
  Type type;
  int64_t offset = 0;
  if (ir::apply_steps(from, {{kind, dims}}, &type, &offset)) return type;
  MOAI_ASSERT(kind == ir::ViewStep::Kind::kReshape, "no such view of ", from.str());
  return Type::contiguous(from.dtype, dims);
}

}  // namespace

Dims memory_order(const Type& type) {
  Dims order(type.sizes.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return type.strides[a] > type.strides[b]; });
  return order;
}

Dims inverse(const Dims& order) {
  Dims back(order.size());
  for (size_t i = 0; i < order.size(); ++i) back[order[i]] = static_cast<int64_t>(i);
  return back;
}

bool is_identity(const Dims& order) {
  for (size_t i = 0; i < order.size(); ++i) {
    if (order[i] != static_cast<int64_t>(i)) return false;
  }
  return true;
}

Type dense_like(const Type& like, Dims sizes) {
  if (like.is_contiguous()) return Type::contiguous(like.dtype, std::move(sizes));
  const Dims order = memory_order(like);
  Type type{like.dtype, std::move(sizes), Dims(order.size(), 1)};
  int64_t stride = 1;
  for (size_t i = order.size(); i-- > 0;) {
    type.strides[order[i]] = stride;
    stride *= std::max<int64_t>(type.sizes[order[i]], 1);
  }
  return type;
}

ValueId LocalBuilder::add(const char* op, std::vector<ValueId> operands, const std::vector<ir::Arg>& more,
                          Type result) {
  return add_node(ir::call_node(ir::Symbol::intern(op), std::move(operands), more), {std::move(result)})
      .results[0];
}

ValueId LocalBuilder::add_call(const char* op, std::vector<ValueId> operands, std::vector<ir::Arg> args,
                               Type result) {
  ir::Node node;
  node.op = ir::Symbol::intern(op);
  node.operands = std::move(operands);
  node.args = std::move(args);
  return add_node(std::move(node), {std::move(result)}).results[0];
}

void LocalBuilder::add_without_result(const char* op, ValueId operand, const std::vector<ir::Arg>& more) {
  add_node(ir::call_node(ir::Symbol::intern(op), {operand}, more), {});
}

const ir::Node& LocalBuilder::add_node(ir::Node node, std::vector<Type> results) {
  node.section = section_;
  node.origin = origin_;
  return graph_.node(graph_.add_node(std::move(node), std::move(results)));
}

ValueId LocalBuilder::pointwise(const char* op, std::vector<ValueId> operands, std::vector<ir::Arg> more) {
  const ir::DType dtype = type(operands[0]).dtype;
  return pointwise(op, std::move(operands), std::move(more), dtype);
}

ValueId LocalBuilder::pointwise(const char* op, std::vector<ValueId> operands, std::vector<ir::Arg> more,
                                ir::DType dtype) {
  Type result = dense_like(type(operands[0]), type(operands[0]).sizes);
  result.dtype = dtype;
  return add(op, std::move(operands), std::move(more), std::move(result));
}

ValueId LocalBuilder::slice(ValueId x, int64_t dim, int64_t start, int64_t length) {
  if (start == 0 && length == type(x).sizes[dim]) return x;
  const Dims step{dim, start, length, 1};
  return add("moai.slice", {x}, {dim, start, length, int64_t{1}},
             after(type(x), ir::ViewStep::Kind::kSlice, step));
}

ValueId LocalBuilder::reshape(ValueId x, const Dims& sizes) {
  if (type(x).sizes == sizes) return x;
  return add("moai.reshape", {x}, {sizes}, after(type(x), ir::ViewStep::Kind::kReshape, sizes));
}

ValueId LocalBuilder::permute(ValueId x, const Dims& order) {
  if (is_identity(order)) return x;
  return add("moai.permute", {x}, {order}, after(type(x), ir::ViewStep::Kind::kPermute, order));
}

ValueId LocalBuilder::expand(ValueId x, const Dims& sizes) {
  if (type(x).sizes == sizes) return x;
  return add("moai.expand", {x}, {sizes}, after(type(x), ir::ViewStep::Kind::kExpand, sizes));
}

ValueId LocalBuilder::contiguous(ValueId x) {
  if (type(x).is_contiguous()) return x;
  return add("aten.clone", {x}, {int64_t{0}}, Type::contiguous(type(x).dtype, type(x).sizes));
}

ValueId LocalBuilder::dense(ValueId x, const Dims& order) {
  Type ordered = type(x);
  for (size_t d = 0; d < order.size(); ++d) {
    ordered.sizes[d] = type(x).sizes[order[d]];
    ordered.strides[d] = type(x).strides[order[d]];
  }
  if (ordered.is_contiguous()) return x;
  return permute(contiguous(permute(x, order)), inverse(order));
}

ValueId LocalBuilder::to_dtype(ValueId x, ir::DType dtype) {
  if (type(x).dtype == dtype) return x;
  return pointwise("aten._to_copy", {x}, ir::to_dtype_args(dtype), dtype);
}

ValueId LocalBuilder::full(ir::DType dtype, const Dims& sizes, double value) {
  return add("aten.full", {}, filled(sizes, value, dtype), Type::contiguous(dtype, sizes));
}

ValueId LocalBuilder::count_up(int64_t size) {
  const auto dtype = static_cast<int64_t>(ir::DType::kI64);
  return add("aten.arange", {}, {size, dtype, ir::NoneArg{}, ir::NoneArg{}, ir::NoneArg{}},
             Type::contiguous(ir::DType::kI64, {size}));
}

ValueId LocalBuilder::zeros_over(ir::DType dtype, const Dims& sizes) {
  return expand(full(dtype, Dims(sizes.size(), 1), 0), sizes);
}

ValueId LocalBuilder::pad(ValueId x, int64_t dim, int64_t before, int64_t after) {
  if (before == 0 && after == 0) return x;
  Dims sizes = type(x).sizes;
  Dims padding(2 * (sizes.size() - static_cast<size_t>(dim)), 0);
  padding[padding.size() - 2] = before;
  padding[padding.size() - 1] = after;
  sizes[dim] += before + after;
  return add("aten.constant_pad_nd", {x}, {padding, int64_t{0}}, Type::contiguous(type(x).dtype, sizes));
}

ValueId LocalBuilder::concatenate(const std::vector<ValueId>& parts, int64_t dim) {
  ir::OperandListRef list;
  Dims sizes = type(parts[0]).sizes;
  sizes[dim] = 0;
  for (size_t p = 0; p < parts.size(); ++p) {
    list.operands.push_back(static_cast<int32_t>(p));
    sizes[dim] += type(parts[p]).sizes[dim];
  }
  return add_call("aten.cat", parts, {std::move(list), dim},
                  Type::contiguous(type(parts[0]).dtype, std::move(sizes)));
}

ValueId LocalBuilder::index_select(ValueId x, int64_t dim, ValueId index) {
  Dims sizes = type(x).sizes;
  sizes[dim] = type(index).sizes[0];
  return add_call("aten.index_select", {x, index}, {ir::OperandRef{0}, dim, ir::OperandRef{1}},
                  Type::contiguous(type(x).dtype, std::move(sizes)));
}

ValueId LocalBuilder::collective(ValueId x, const Collective& call, size_t own) {
  using K = Collective::Kind;
  x = contiguous(x);
  const auto sum = [](const std::vector<int64_t>& sizes) {
    return std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
  };
  Dims sizes = type(x).sizes;
  if (call.kind == K::kAllGather) sizes[call.dim] = sum(call.sizes);
  if (call.kind == K::kReduceScatter || call.kind == K::kAllToAll) sizes[call.dim] = call.sizes[own];
  if (call.kind == K::kAllToAll) sizes[call.joined_dim] = sum(call.joined_sizes);
  Collective outer = call;
  for (auto& axis : outer.axes) axis += outer_axes_;
  auto args = args_of(outer);
  args.erase(args.begin());
  return add(collective_name(call.kind), {x}, std::move(args), Type::contiguous(type(x).dtype, sizes));
}

}  // namespace moai::compile
