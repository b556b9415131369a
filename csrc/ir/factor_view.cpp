#include <algorithm>
#include <cstddef>
#include <utility>

#include "ir/view.h"

namespace moai::ir {

namespace {

// One dim of the view, or the part of it that walks within one axis. In elements of the axis.
struct Walk {
  int64_t stride;
  int64_t size;  // more than 1
  int32_t dim;   // of the view
};

// A row of elements of which the view takes some: those at `offset` plus what the walks add. Walks are in
// order of falling strides.
struct Axis {
  int64_t length;
  int64_t offset;
  int64_t stride;  // of its elements, in memory
  std::vector<Walk> walks;
};

// Elements from the first to one past the last that walks number `from` and on reach.
int64_t reach(const std::vector<Walk>& walks, size_t from) {
  int64_t reach = 1;
  for (size_t i = from; i < walks.size(); ++i) reach += (walks[i].size - 1) * walks[i].stride;
  return reach;
}

// Divisors of `number` between `low` and `high`, falling.
std::vector<int64_t> divisors(int64_t number, int64_t low, int64_t high) {
  std::vector<int64_t> small;
  std::vector<int64_t> found;
  for (int64_t d = 1; d <= number / d; ++d) {
    if (number % d) continue;
    const int64_t large = number / d;
    if (large >= low && large <= high) found.push_back(large);
    if (d != large && d >= low && d <= high) small.push_back(d);
    if (large < low) break;  // and so is every later one, and every d
  }
  found.insert(found.end(), small.rbegin(), small.rend());
  return found;
}

// An axis is divided into rows of `r` elements such that the outermost walk goes from row to row and the
// others stay within one. `r` divides that walk's stride; it is at least the reach of the others, and the
// last row must still be inside the axis. The longest rows leave the most room to the others, so taking them
// decides for sure whether there is a way.
bool can_factor(int64_t length, const std::vector<Walk>& walks, size_t from) {
  for (size_t i = from; i + 1 < walks.size(); ++i) {
    const int64_t longest = length - (walks[i].size - 1) * walks[i].stride;
    const int64_t inner = reach(walks, i + 1);
    if (walks[i].stride >= inner && walks[i].stride <= longest) {
      length = walks[i].stride;
      continue;
    }
    const std::vector<int64_t> rows = divisors(walks[i].stride, inner, longest);
    if (rows.empty()) return false;
    length = rows[0];
  }
  return walks.size() <= from || reach(walks, walks.size() - 1) <= length;
}

// How to divide an axis: first cut it to `length` elements from `start` on, then into rows of `row`.
struct Division {
  int64_t start;
  int64_t length;
  int64_t row;
};

Division divide(const Axis& axis) {
  const Walk& outer = axis.walks[0];
  const int64_t steps = (outer.size - 1) * outer.stride;
  const int64_t inner = reach(axis.walks, 1);
  const int64_t longest = axis.length - steps;
  const auto needs_no_cut = [&](int64_t row) {
    return axis.length % row == 0 && axis.offset % row + inner <= row && can_factor(row, axis.walks, 1);
  };
  const Division whole{0, axis.length, outer.stride};
  if (outer.stride >= inner && outer.stride <= longest && needs_no_cut(outer.stride)) return whole;
  const std::vector<int64_t> rows = divisors(outer.stride, inner, longest);
  for (const int64_t row : rows) {
    if (needs_no_cut(row)) return {0, axis.length, row};
  }
  const int64_t row = rows[0];
  const int64_t earliest = std::max<int64_t>(0, axis.offset + inner - row);
  const int64_t latest = std::min(axis.offset, longest - row);
  const int64_t aligned = latest / row * row;
  return {aligned >= earliest ? aligned : latest, steps + row, row};
}

class Factoring {
 public:
  Factoring(const Type& base, const Type& view, int64_t offset) : base_(base), view_(view), offset_(offset) {}

  std::optional<std::vector<ViewStep>> run() {
    if (!read_base() || !read_view()) return std::nullopt;
    if (!can_factor(base_.numel(), walks_, 0)) return std::nullopt;
    place_axes();
    current_ = base_.sizes;
    order_axes();
    divide_axes();
    slice_axes();
    permute_axes();
    finish();
    return std::move(steps_);
  }

 private:
  // The dims that matter, outermost in memory first.
  bool read_base() {
    for (size_t d = 0; d < base_.sizes.size(); ++d) {
      if (base_.sizes[d] != 1) storage_order_.push_back(static_cast<int32_t>(d));
    }
    std::sort(storage_order_.begin(), storage_order_.end(),
              [&](int32_t a, int32_t b) { return base_.strides[a] > base_.strides[b]; });
    return base_.is_dense();
  }

  bool read_view() {
    for (size_t d = 0; d < view_.sizes.size(); ++d) {
      if (view_.sizes[d] == 1 || view_.strides[d] == 0) continue;
      if (view_.strides[d] < 0) return false;
      walks_.push_back({view_.strides[d], view_.sizes[d], static_cast<int32_t>(d)});
    }
    std::sort(walks_.begin(), walks_.end(), [](const Walk& a, const Walk& b) {
      return a.stride != b.stride ? a.stride > b.stride : a.dim < b.dim;
    });
    const int64_t room = base_.extent() - reach(walks_, 0);
    return offset_ >= 0 && offset_ <= room;
  }

  // Lays the walks over axes: the base's dims, outermost in memory first, those taken together that the view
  // does not keep apart.
  void place_axes() {
    Axis axis{base_.numel(), offset_, 1, walks_};
    for (size_t i = 0; i + 1 < storage_order_.size(); ++i) {
      Axis outer;
      Axis inner;
      if (!cut(axis, base_.strides[storage_order_[i]], &outer, &inner)) continue;
      axes_.push_back(std::move(outer));
      axis = std::move(inner);
    }
    if (axis.length > 1) axes_.push_back(std::move(axis));
  }

  // Cuts an axis into rows and what is in a row, if every walk goes over rows or stays within one. A walk
  // through whole rows does both.
  static bool cut(const Axis& axis, int64_t row, Axis* outer, Axis* inner) {
    *outer = {axis.length / row, axis.offset / row, axis.stride * row, {}};
    *inner = {row, axis.offset % row, axis.stride, {}};
    for (Walk walk : axis.walks) {
      if (walk.stride >= row) {
        if (walk.stride % row) return false;
        outer->walks.push_back({walk.stride / row, walk.size, walk.dim});
        continue;
      }
      const int64_t in_row = row / walk.stride;
      if (row % walk.stride == 0 && walk.size > in_row && walk.size % in_row == 0) {
        outer->walks.push_back({1, walk.size / in_row, walk.dim});
        walk.size = in_row;
      }
      inner->walks.push_back(walk);
    }
    return inner->offset + reach(inner->walks, 0) <= row && can_factor(outer->length, outer->walks, 0) &&
           can_factor(row, inner->walks, 0);
  }

  // Brings the axes into the order of the base's dims where each is a dim of its own; otherwise the base into
  // the order of the axes.
  void order_axes() {
    if (axes_.size() == storage_order_.size()) {
      std::vector<Axis> axes(base_.sizes.size(), Axis{1, 0, 1, {}});
      for (size_t i = 0; i < axes_.size(); ++i) axes[storage_order_[i]] = std::move(axes_[i]);
      axes_ = std::move(axes);
    } else if (!std::is_sorted(storage_order_.begin(), storage_order_.end())) {
      Dims order(storage_order_.begin(), storage_order_.end());
      for (size_t d = 0; d < base_.sizes.size(); ++d) {
        if (base_.sizes[d] == 1) order.push_back(static_cast<int64_t>(d));
      }
      permute(order);
    }
  }

  // Until each axis has one walk at most.
  void divide_axes() {
    for (size_t i = 0; i < axes_.size(); ++i) {
      if (axes_[i].walks.size() < 2) continue;
      const Division division = divide(axes_[i]);
      slice(i, division.start, division.length, 1);
      Axis& axis = axes_[i];
      axis.offset -= division.start;
      Axis inner{
          division.row, axis.offset % division.row, axis.stride, {axis.walks.begin() + 1, axis.walks.end()}};
      axis.walks.resize(1);
      axis.walks[0].stride /= division.row;
      axis.length /= division.row;
      axis.offset /= division.row;
      axis.stride *= division.row;
      axes_.insert(axes_.begin() + static_cast<std::ptrdiff_t>(i) + 1, std::move(inner));
    }
  }

  void slice_axes() {
    for (size_t i = 0; i < axes_.size(); ++i) {
      const Axis& axis = axes_[i];
      if (axis.walks.empty()) {
        slice(i, axis.offset, 1, 1);
      } else {
        slice(i, axis.offset, axis.walks[0].size, axis.walks[0].stride);
      }
    }
  }

  // Brings the axes into the order of the view's dims. Those of size 1 go where the view has such dims, as
  // long as there are some; the last reshape sees to the rest.
  void permute_axes() {
    std::vector<Dims> axes_of(view_.sizes.size());
    Dims single;
    for (size_t i = 0; i < axes_.size(); ++i) {
      Dims& axes = axes_[i].walks.empty() ? single : axes_of[axes_[i].walks[0].dim];
      axes.push_back(static_cast<int64_t>(i));
    }
    Dims order;
    Dims walked;
    auto next_single = single.begin();
    for (Dims& axes : axes_of) {
      std::sort(axes.begin(), axes.end(),
                [&](int64_t a, int64_t b) { return axes_[a].stride > axes_[b].stride; });
      walked.insert(walked.end(), axes.begin(), axes.end());
      order.insert(order.end(), axes.begin(), axes.end());
      if (axes.empty() && next_single != single.end()) order.push_back(*next_single++);
    }
    if (std::is_sorted(walked.begin(), walked.end())) return;
    order.insert(order.end(), next_single, single.end());
    reshape(lengths());
    permute(order);
  }

  void finish() {
    Dims sizes = view_.sizes;
    for (size_t d = 0; d < sizes.size(); ++d) {
      if (view_.strides[d] == 0) sizes[d] = 1;
    }
    reshape(sizes);
    if (current_ != view_.sizes) steps_.push_back({ViewStep::Kind::kExpand, view_.sizes});
  }

  Dims lengths() const {
    Dims lengths;
    for (const Axis& axis : axes_) lengths.push_back(axis.length);
    return lengths;
  }

  void reshape(Dims sizes) {
    if (sizes == current_) return;
    steps_.push_back({ViewStep::Kind::kReshape, sizes});
    current_ = std::move(sizes);
  }

  void permute(const Dims& order) {
    Dims sizes;
    for (const int64_t d : order) sizes.push_back(current_[d]);
    steps_.push_back({ViewStep::Kind::kPermute, order});
    current_ = std::move(sizes);
  }

  void slice(size_t axis, int64_t start, int64_t length, int64_t step) {
    if (length == axes_[axis].length) return;
    reshape(lengths());
    steps_.push_back({ViewStep::Kind::kSlice, {static_cast<int64_t>(axis), start, length, step}});
    axes_[axis].length = current_[axis] = length;
  }

  const Type& base_;
  const Type& view_;
  const int64_t offset_;
  std::vector<int32_t> storage_order_;
  std::vector<Walk> walks_;
  std::vector<Axis> axes_;
  Dims current_;  // sizes after the steps so far
  std::vector<ViewStep> steps_;
};

// A view of no elements starts with a slice of none; any reshape of that is legal.
std::vector<ViewStep> factor_empty_view(const Type& base, const Type& view) {
  std::vector<ViewStep> steps;
  Dims sizes = base.sizes;
  if (base.numel() > 0) {
    if (sizes.empty()) steps.push_back({ViewStep::Kind::kReshape, sizes = {1}});
    steps.push_back({ViewStep::Kind::kSlice, {0, 0, 0, 1}});
    sizes[0] = 0;
  }
  if (sizes != view.sizes) steps.push_back({ViewStep::Kind::kReshape, view.sizes});
  return steps;
}

}  // namespace

std::optional<std::vector<ViewStep>> factor_view(const Type& base, const Type& view, int64_t offset) {
  if (base.dtype != view.dtype) return std::nullopt;
  if (view.numel() == 0) return factor_empty_view(base, view);
  if (base.numel() == 0) return std::nullopt;
  return Factoring(base, view, offset).run();
}

}  // namespace moai::ir
