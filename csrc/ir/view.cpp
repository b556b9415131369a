#include "ir/view.h"

#include <cstddef>
#include <tuple>
#include <utility>

#include "ir/error.h"

namespace moai::ir {

namespace {

bool count(const Dims& sizes, int64_t* elements) {
  *elements = 1;
  for (const int64_t size : sizes) {
    if (size < 0 || __builtin_mul_overflow(*elements, size, elements)) return false;
  }
  return true;
}

// The strides that show `type` as `sizes` without a copy, as ATen's computeStride finds them: runs of dims
// that lie as one are taken together and divided anew.
bool reshape(const Dims& sizes, Type* type) {
  int64_t elements = 0;
  if (!count(sizes, &elements) || elements != type->numel()) return false;
  if (elements == 0 || type->sizes.empty()) {
    *type = Type::contiguous(type->dtype, sizes);
    return true;
  }
  Dims strides(sizes.size());
  size_t left = sizes.size();  // how many of the new dims have no stride yet
  int64_t run = 1;             // elements in the run of old dims so far
  int64_t stride = type->strides.back();
  for (size_t d = type->sizes.size(); d-- > 0;) {
    run *= type->sizes[d];
    if (d > 0 && (type->sizes[d - 1] == 1 || type->strides[d - 1] == run * stride)) continue;
    int64_t filled = 1;
    while (left > 0 && (filled < run || sizes[left - 1] == 1)) {
      --left;
      strides[left] = filled * stride;
      filled *= sizes[left];
    }
    if (filled != run) return false;
    run = 1;
    if (d > 0) stride = type->strides[d - 1];
  }
  type->sizes = sizes;
  type->strides = std::move(strides);
  return left == 0;
}

bool slice(const Dims& dims, Type* type, int64_t* offset) {
  if (dims.size() != 4) return false;
  const auto [dim, start, length, step] = std::tie(dims[0], dims[1], dims[2], dims[3]);
  if (dim < 0 || static_cast<size_t>(dim) >= type->sizes.size()) return false;
  const int64_t size = type->sizes[dim];
  if (start < 0 || start > size || length < 0 || step < 1) return false;
  if (length > 0 && (start == size || length - 1 > (size - 1 - start) / step)) return false;
  *offset += start * type->strides[dim];
  type->sizes[dim] = length;
  type->strides[dim] *= step;
  return true;
}

bool permute(const Dims& order, Type* type) {
  const Type from = *type;
  if (order.size() != from.sizes.size()) return false;
  std::vector<bool> seen(order.size());
  for (size_t i = 0; i < order.size(); ++i) {
    const int64_t dim = order[i];
    if (dim < 0 || static_cast<size_t>(dim) >= order.size() || seen[dim]) return false;
    seen[dim] = true;
    type->sizes[i] = from.sizes[dim];
    type->strides[i] = from.strides[dim];
  }
  return true;
}

bool expand(const Dims& sizes, Type* type) {
  if (sizes.size() != type->sizes.size()) return false;
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] == type->sizes[i]) continue;
    if (type->sizes[i] != 1 || sizes[i] < 0) return false;
    type->sizes[i] = sizes[i];
    type->strides[i] = 0;
  }
  return true;
}

const char* kind_name(ViewStep::Kind kind) {
  switch (kind) {
    case ViewStep::Kind::kReshape: return "reshape";
    case ViewStep::Kind::kSlice: return "slice";
    case ViewStep::Kind::kPermute: return "permute";
    case ViewStep::Kind::kExpand: return "expand";
  }
  return "?";
}

}  // namespace

bool apply_steps(const Type& base, const std::vector<ViewStep>& steps, Type* out, int64_t* offset) {
  *out = base;
  *offset = 0;
  for (const ViewStep& step : steps) {
    const bool applied = step.kind == ViewStep::Kind::kReshape   ? reshape(step.dims, out)
                         : step.kind == ViewStep::Kind::kSlice   ? slice(step.dims, out, offset)
                         : step.kind == ViewStep::Kind::kPermute ? permute(step.dims, out)
                                                                 : expand(step.dims, out);
    if (!applied) return false;
  }
  return true;
}

std::string str(const ViewStep& step) {
  std::string text = concat(kind_name(step.kind), "(");
  for (size_t i = 0; i < step.dims.size(); ++i) text += concat(i ? "," : "", step.dims[i]);
  return text + ")";
}

}  // namespace moai::ir
