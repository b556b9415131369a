#include "compile/local/grouped_product.h"

#include <algorithm>
#include <utility>

#include "ir/error.h"

namespace moai::compile {

namespace {

using ir::Dims;
using ir::Type;
using ir::ValueId;

constexpr int64_t kRowBytes = 16;

ValueId select(LocalBuilder& b, ValueId x, int64_t dim, ValueId index) {
  return in_memory_order(b, x, dim, [&](ValueId in, int64_t at) { return b.index_select(in, at, index); });
}

ValueId pad(LocalBuilder& b, ValueId x, int64_t dim, int64_t size) {
  if (b.type(x).sizes[dim] == size) return x;
  return in_memory_order(
      b, x, dim, [&](ValueId in, int64_t at) { return b.pad(in, at, 0, size - b.type(in).sizes[at]); });
}

// The rows that lie in some groups, see Note [Groups of another device].
class OwnRows {
 public:
  // `ends`: of all groups. `rows`: of all.
  OwnRows(LocalBuilder& b, ValueId ends, const Part& groups, int64_t rows) : b_(b) {
    ends_ = b.slice(ends, 0, groups.start, groups.length);
    const ValueId index = b.count_up(rows);
    back_ = index;
    if (groups.start > 0) {
      const ValueId start = b.slice(ends, 0, groups.start - 1, 1);
      const auto turned = [&](const char* op) {
        return b.pointwise("aten.remainder.Scalar", {b.pointwise(op, {index, start}, {int64_t{1}})}, {rows});
      };
      forth_ = turned("aten.add.Tensor");
      back_ = turned("aten.sub.Tensor");
      ends_ = b.pointwise("aten.sub.Tensor", {ends_, start}, {int64_t{1}});
    }
    const ValueId count = b.slice(ends_, 0, groups.length - 1, 1);
    others_ = b.pointwise("aten.ge.Tensor", {back_, count}, {}, ir::DType::kBool);
  }

  ValueId ends() const { return ends_; }

  // Own rows first.
  ValueId forth(ValueId x, int64_t dim) const { return forth_ == ir::kNone ? x : select(b_, x, dim, forth_); }

  // Rows where they were, and others zero.
  ValueId back(ValueId x, int64_t dim) const {
    if (forth_ != ir::kNone) x = select(b_, x, dim, back_);
    Dims mask(b_.type(x).sizes.size(), 1);
    mask[dim] = b_.type(x).sizes[dim];
    return b_.pointwise("aten.masked_fill.Scalar", {x, b_.reshape(others_, mask)}, {int64_t{0}});
  }

 private:
  LocalBuilder& b_;
  ValueId ends_ = ir::kNone;  // of the own groups, counted from their first row
  ValueId forth_ =
      ir::kNone;              // by row when the own ones come first: which one that is; nothing where they do
  ValueId back_ = ir::kNone;  // by row: where it is then
  ValueId others_ = ir::kNone;  // by row: whether it is in none of the groups
};

}  // namespace

ValueId grouped_product(LocalBuilder& b, ir::Node node, std::vector<ValueId> operands, const Type& result,
                        std::optional<Part> groups) {
  const auto rank = [&](size_t o) { return static_cast<int64_t>(b.type(operands[o]).sizes.size()); };
  const bool a_3d = rank(0) == 3, b_3d = rank(1) == 3;
  std::optional<OwnRows> own;
  if (groups) {
    const int64_t a_dim = b_3d ? 0 : 1, b_dim = a_3d ? 1 : 0;
    const int64_t rows = a_3d ? b.type(operands[1]).sizes[b_dim] : b.type(operands[0]).sizes[a_dim];
    own.emplace(b, operands[2], *groups, rows);
    operands[2] = own->ends();
    if (!a_3d) operands[0] = own->forth(operands[0], a_dim);
    if (!b_3d) operands[1] = own->forth(operands[1], b_dim);
  }

  // a is [.., m, k], b [.., k, n]: whichever dim lies innermost in memory; both where one of size 1 leaves it
  // open, and torch may see it another way.
  int64_t m = b.type(operands[0]).sizes[rank(0) - 2], k = b.type(operands[0]).sizes[rank(0) - 1],
          n = b.type(operands[1]).sizes[rank(1) - 1];
  const int64_t unit = std::max<int64_t>(kRowBytes / ir::element_bytes(b.type(operands[0]).dtype), 1);
  const auto align = [&](int64_t& size) { size = (size + unit - 1) / unit * unit; };
  const auto align_inner = [&](const Type& type, int64_t& rows, int64_t& columns) {
    const auto last = static_cast<int64_t>(type.sizes.size()) - 1;
    const bool is_open = type.sizes[last] == 1 || type.sizes[last - 1] == 1;
    const bool is_last = memory_order(type).back() == last;
    if (is_last || is_open) align(columns);
    if (!is_last || is_open) align(rows);
  };
  align_inner(b.type(operands[0]), m, k);
  align_inner(b.type(operands[1]), k, n);
  operands[0] = pad(b, pad(b, operands[0], rank(0) - 1, k), rank(0) - 2, m);
  operands[1] = pad(b, pad(b, operands[1], rank(1) - 1, n), rank(1) - 2, k);
  Type made = result;
  const auto out_rank = static_cast<int64_t>(made.sizes.size());
  made.sizes[out_rank - 2] = m;
  made.sizes[out_rank - 1] = n;
  if (made.sizes != result.sizes) made = Type::contiguous(result.dtype, made.sizes);

  node.results.clear();
  node.operands = std::move(operands);
  ValueId out = b.graph().node(b.graph().add_node(std::move(node), {made})).results[0];
  out = b.slice(out, out_rank - 2, 0, result.sizes[out_rank - 2]);
  out = b.slice(out, out_rank - 1, 0, result.sizes[out_rank - 1]);
  if (own && out_rank == 2) out = own->back(out, a_3d ? 1 : 0);
  return out;
}

}  // namespace moai::compile
