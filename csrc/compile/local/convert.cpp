#include "compile/local/convert.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "ir/error.h"

namespace moai::compile {

namespace {

using ir::Dims;
using ir::ValueId;
using plan::Change;
using plan::Placement;
using plan::Split;
using K = Split::Kind;

int64_t product(const Dims& sizes, size_t from, size_t to) {
  return std::accumulate(sizes.begin() + static_cast<int64_t>(from), sizes.begin() + static_cast<int64_t>(to),
                         int64_t{1}, std::multiplies<>());
}

class Convert {
 public:
  Convert(LocalBuilder& builder, const Place& place, ValueId value, const ir::Type& type,
          const LeafSizes& whole, const Placement& from)
      : b_(builder), place_(place), whole_(whole), at_(from), x_(value) {
    // Everything is done in the order in which the dims lie in memory, so that the result lies as the value.
    order_ = memory_order(type);
    x_ = b_.permute(x_, order_);
    const auto parts = parts_of(place, whole, from);
    for (const auto& dim : parts) {
      lengths_.emplace_back();
      for (const auto& part : dim) lengths_.back().push_back(part.length);
    }
  }

  void step(const ConvertStep& step, const std::vector<Reduction>& reductions, ValueId& weight) {
    const auto axis = static_cast<size_t>(step.axes.front());
    switch (step.change) {
      case Change::kNothing: break;
      case Change::kAllReduce:
        if (step.from.kind == K::kReduced) {
          reduce(axis, reductions[axis], weight);
        } else {
          x_ = all_reduce(x_, step.axes, "sum");
        }
        break;
      case Change::kAllGather: gather(axis, step.from); break;
      case Change::kReduceScatter: scatter(axis, step.to); break;
      case Change::kAllToAll: exchange(axis, step.from, step.to); break;
      case Change::kLocal:
        if (step.from.kind == K::kShard) {
          surround(axis, step.from);
        } else if (step.to.kind == K::kShard) {
          cut(axis, step.to);
        } else if (place_.coordinates[axis] != 0) {
          x_ = b_.full(b_.type(x_).dtype, b_.type(x_).sizes, 0);
        }
        break;
      case Change::kImpossible: MOAI_ASSERT(false, "a conversion that there is not"); break;
    }
    for (const auto a : step.axes) at_[a] = step.to;
  }

  ValueId finish() { return b_.permute(close(), inverse(order_)); }

 private:
  static std::pair<int16_t, int16_t> key(const Split& split) { return {split.dim, split.leaf}; }

  // Makes each of these atoms a dim of its own, joined with the atoms inside it up to the next such one.
  void open(std::vector<Split> splits) {
    std::sort(splits.begin(), splits.end());
    pieces_.clear();
    Dims sizes;
    for (const auto d : order_) {
      const auto& lengths = lengths_[d];
      std::vector<size_t> starts{0};
      for (const auto& split : splits) {
        if (split.dim == d && split.leaf > 0) starts.push_back(static_cast<size_t>(split.leaf));
      }
      starts.push_back(std::max<size_t>(lengths.size(), 1));
      for (size_t i = 0; i + 1 < starts.size(); ++i) {
        if (lengths.empty()) {
          sizes.push_back(1);
          continue;
        }
        for (const auto& split : splits) {
          if (split.dim == d && static_cast<size_t>(split.leaf) == starts[i])
            pieces_.push_back({key(split), static_cast<int64_t>(sizes.size()),
                               product(lengths, starts[i] + 1, starts[i + 1])});
        }
        sizes.push_back(product(lengths, starts[i], starts[i + 1]));
      }
    }
    x_ = b_.reshape(x_, sizes);
  }

  ValueId close() {
    Dims sizes;
    for (const auto d : order_) sizes.push_back(product(lengths_[d], 0, lengths_[d].size()));
    return x_ = b_.reshape(x_, sizes);
  }

  struct Piece {
    std::pair<int16_t, int16_t> of;
    int64_t dim;    // of the opened value
    int64_t inner;  // elements of it for one of the atom
  };
  const Piece& piece(const Split& split) const {
    for (const auto& one : pieces_) {
      if (one.of == key(split)) return one;
    }
    MOAI_ASSERT(false, "the atom is not open");
    std::abort();
  }

  int64_t size(const Split& split) const { return whole_[split.dim][split.leaf]; }
  int64_t& length(const Split& split) { return lengths_[split.dim][split.leaf]; }

  // The axes of an atom up to `axis`, it included, and without it.
  std::vector<int64_t> outer(size_t axis, const Split& split) const {
    auto axes = axes_of(at_, split.dim, split.leaf);
    axes.erase(std::remove(axes.begin(), axes.end(), static_cast<int64_t>(axis)), axes.end());
    return axes;
  }
  std::vector<int64_t> with(size_t axis, const Split& split) const {
    auto axes = outer(axis, split);
    axes.push_back(static_cast<int64_t>(axis));
    return axes;
  }

  // The parts of a group along `axis`, in elements of the opened dim.
  std::vector<int64_t> sizes(size_t axis, const Split& split) const {
    auto lengths = place_.lengths(size(split), with(axis, split));
    for (auto& length : lengths) length *= piece(split).inner;
    return lengths;
  }

  size_t own(size_t axis) const { return static_cast<size_t>(place_.coordinates[axis]); }

  ValueId all_reduce(ValueId x, const std::vector<int64_t>& axes, const char* reduction) {
    Collective call;
    call.axes = axes;
    call.reduction = reduction;
    return b_.collective(x, call, 0);
  }

  // Over one axis, of the parts of `split`.
  Collective along(size_t axis, const Split& split, Collective::Kind kind) {
    Collective call;
    call.kind = kind;
    call.axes = {static_cast<int64_t>(axis)};
    call.dim = piece(split).dim;
    call.sizes = sizes(axis, split);
    return call;
  }

  void gather(size_t axis, const Split& split) {
    open({split});
    x_ = b_.collective(x_, along(axis, split, Collective::Kind::kAllGather), own(axis));
    length(split) = place_.part(size(split), outer(axis, split)).length;
    close();
  }

  void scatter(size_t axis, const Split& split) {
    open({split});
    x_ = b_.collective(x_, along(axis, split, Collective::Kind::kReduceScatter), own(axis));
    length(split) = place_.part(size(split), with(axis, split)).length;
    close();
  }

  void exchange(size_t axis, const Split& from, const Split& to) {
    open({from, to});
    Collective call = along(axis, to, Collective::Kind::kAllToAll);
    call.joined_dim = piece(from).dim;
    call.joined_sizes = sizes(axis, from);
    x_ = b_.collective(x_, call, own(axis));
    length(from) = place_.part(size(from), outer(axis, from)).length;
    length(to) = place_.part(size(to), with(axis, to)).length;
    close();
  }

  void cut(size_t axis, const Split& split) {
    open({split});
    const Part now = place_.part(size(split), outer(axis, split));
    const Part part = place_.part(size(split), with(axis, split));
    const auto& at = piece(split);
    x_ = b_.slice(x_, at.dim, (part.start - now.start) * at.inner, part.length * at.inner);
    length(split) = part.length;
    close();
  }

  void surround(size_t axis, const Split& split) {
    open({split});
    const Part part = place_.part(size(split), with(axis, split));
    const Part then = place_.part(size(split), outer(axis, split));
    const auto& at = piece(split);
    const int64_t before = part.start - then.start;
    x_ = b_.pad(x_, at.dim, before * at.inner, (then.length - before - part.length) * at.inner);
    length(split) = then.length;
    close();
  }

  // One axis of what is reduced otherwise than by a sum.
  void reduce(size_t axis, const Reduction& reduction, ValueId& weight) {
    const std::vector<int64_t> axes{static_cast<int64_t>(axis)};
    using ops::Combine;
    switch (reduction.how) {
      case Combine::kMax:
      case Combine::kAny: x_ = all_reduce(x_, axes, "max"); return;
      case Combine::kMin:
      case Combine::kAll: x_ = all_reduce(x_, axes, "min"); return;
      case Combine::kProduct: x_ = all_reduce(x_, axes, "product"); return;
      case Combine::kMean: {
        auto outside = reduction.axes;
        outside.pop_back();
        const auto part = static_cast<double>(place_.part(reduction.size, reduction.axes).length);
        const auto all = static_cast<double>(place_.part(reduction.size, outside).length);
        x_ = all_reduce(b_.pointwise("aten.mul.Scalar", {x_}, {part / all}), axes, "sum");
        return;
      }
      case Combine::kNorm2:
        x_ = all_reduce(b_.pointwise("aten.mul.Tensor", {x_, x_}), axes, "sum");
        x_ = b_.pointwise("aten.sqrt", {x_});
        return;
      case Combine::kWeighted: {
        // A part of no weight has no mean, and counts nothing.
        const ValueId nothing = b_.pointwise("aten.eq.Scalar", {weight}, {int64_t{0}}, ir::DType::kBool);
        const ValueId sum = b_.pointwise("aten.mul.Tensor", {x_, weight});
        const ValueId counted = b_.pointwise("aten.masked_fill.Scalar", {sum, nothing}, {int64_t{0}});
        weight = all_reduce(weight, axes, "sum");
        x_ = b_.pointwise("aten.div.Tensor", {all_reduce(counted, axes, "sum"), weight});
        return;
      }
      case Combine::kSum:
      case Combine::kSame:
      case Combine::kUnknown: break;
    }
    MOAI_ASSERT(false, "no collective joins these parts");
  }

  LocalBuilder& b_;
  const Place& place_;
  const LeafSizes& whole_;
  Placement at_;
  ValueId x_;
  Dims order_;
  LeafSizes lengths_;  // by dim (as the value has them) and atom, at the moment
  std::vector<Piece> pieces_;
};

// Note [Repeated dims]
// A value that is the same all along a dim (its stride is 0) is converted as one that has a single index
// there, and repeated again: this moves less, and the dim's stride stays 0. A kernel that lays its result out
// as its operands lie passes over such dims, and would not over ones that are as dense as the others.
bool is_repeated(const ir::Type& type, size_t dim) { return type.strides[dim] == 0 && type.sizes[dim] > 1; }

bool is_repeated(const ir::Type& type) {
  for (size_t d = 0; d < type.sizes.size(); ++d) {
    if (is_repeated(type, d)) return type.numel() > 0;
  }
  return false;
}

Placement without(const ir::Type& type, Placement placement) {
  for (auto& split : placement) {
    if (split.kind == K::kShard && is_repeated(type, static_cast<size_t>(split.dim))) split = {};
  }
  return placement;
}

}  // namespace

ValueId convert(LocalBuilder& builder, const Place& place, ValueId value, const ir::Type& type,
                const LeafSizes& whole, const Placement& from, const Placement& to,
                const std::vector<Reduction>& reductions, ValueId weight) {
  if (from == to) return value;
  if (is_repeated(type)) {
    ir::Type thin = type;
    LeafSizes thin_sizes = whole;
    for (size_t d = 0; d < type.sizes.size(); ++d) {
      if (!is_repeated(type, d)) continue;
      value = builder.slice(value, static_cast<int64_t>(d), 0, 1);
      thin.sizes[d] = thin.strides[d] = 1;
      thin_sizes[d].clear();
    }
    value = convert(builder, place, value, thin, thin_sizes, without(type, from), without(type, to),
                    reductions, weight);
    return builder.expand(value, sizes_of(parts_of(place, whole, to)));
  }
  Convert convert(builder, place, value, type, whole, from);
  for (const auto& step : convert_steps(from, to)) convert.step(step, reductions, weight);
  return convert.finish();
}

}  // namespace moai::compile
