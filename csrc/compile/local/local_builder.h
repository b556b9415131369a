#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "compile/local/collective.h"
#include "ir/graph.h"

namespace moai::compile {

// Writes one device's graph: nodes of their own, and the small steps that conversions are made of. Steps that
// change nothing add no node.
class LocalBuilder {
 public:
  // `outer_axes`: of the mesh that collectives speak of, before those of the device's own group.
  explicit LocalBuilder(int64_t outer_axes = 0) : outer_axes_(outer_axes) {}

  // What follows belongs to this node of the whole graph.
  void set_source(const ir::Node& node) {
    section_ = node.section;
    origin_ = node.origin;
  }

  ir::Graph& graph() { return graph_; }
  const ir::Type& type(ir::ValueId value) const { return graph_.type(value); }

  // The arguments name the operands in order, then `more`.
  ir::ValueId add(const char* op, std::vector<ir::ValueId> operands, const std::vector<ir::Arg>& more,
                  ir::Type result);
  // The arguments name the operands themselves.
  ir::ValueId add_call(const char* op, std::vector<ir::ValueId> operands, std::vector<ir::Arg> args,
                       ir::Type result);
  const ir::Node& add_node(ir::Node node, std::vector<ir::Type> results);
  void add_without_result(const char* op, ir::ValueId operand, const std::vector<ir::Arg>& more);
  // An op whose result is of the first operand's sizes, laid out as that one is but dense.
  ir::ValueId pointwise(const char* op, std::vector<ir::ValueId> operands, std::vector<ir::Arg> more = {});
  ir::ValueId pointwise(const char* op, std::vector<ir::ValueId> operands, std::vector<ir::Arg> more,
                        ir::DType dtype);

  // Views. A reshape whose strides no view has is a copy.
  ir::ValueId slice(ir::ValueId x, int64_t dim, int64_t start, int64_t length);
  ir::ValueId reshape(ir::ValueId x, const ir::Dims& sizes);
  ir::ValueId permute(ir::ValueId x, const ir::Dims& order);
  ir::ValueId expand(ir::ValueId x, const ir::Dims& sizes);

  ir::ValueId contiguous(ir::ValueId x);
  // Dense, its dims in memory in this order.
  ir::ValueId dense(ir::ValueId x, const ir::Dims& order);
  ir::ValueId to_dtype(ir::ValueId x, ir::DType dtype);
  ir::ValueId full(ir::DType dtype, const ir::Dims& sizes, double value);
  // 0, 1, … of `size` numbers; i64.
  ir::ValueId count_up(int64_t size);
  // One zero, seen everywhere.
  ir::ValueId zeros_over(ir::DType dtype, const ir::Dims& sizes);
  // `x` within zeros: `before` and `after` more of them along `dim`.
  ir::ValueId pad(ir::ValueId x, int64_t dim, int64_t before, int64_t after);
  // Contiguous values of the same sizes but in `dim`, side by side.
  ir::ValueId concatenate(const std::vector<ir::ValueId>& parts, int64_t dim);
  // The result is contiguous.
  ir::ValueId index_select(ir::ValueId x, int64_t dim, ir::ValueId index);
  // `own`: this device's position in the group; the axes are of the device's own group.
  ir::ValueId collective(ir::ValueId x, const Collective& collective, size_t own);

 private:
  int64_t outer_axes_;
  ir::Graph graph_;
  ir::Section section_ = ir::Section::kForward;
  int32_t origin_ = ir::kNone;
};

// Dims by stride, the largest first: the order in which a dense value lies in memory.
ir::Dims memory_order(const ir::Type& type);
ir::Dims inverse(const ir::Dims& order);
bool is_identity(const ir::Dims& order);
// A dense type of these sizes whose dims lie in memory in the order that those of `like` do.
ir::Type dense_like(const ir::Type& like, ir::Dims sizes);

// Does something to a dim of a value whose dims are put in the order in which they lie in memory, and lie as
// they did afterwards.
template <typename F>
ir::ValueId in_memory_order(LocalBuilder& b, ir::ValueId x, int64_t dim, const F& change) {
  const ir::Dims order = memory_order(b.type(x));
  const auto at = std::find(order.begin(), order.end(), dim) - order.begin();
  return b.permute(change(b.permute(x, order), at), inverse(order));
}

}  // namespace moai::compile
