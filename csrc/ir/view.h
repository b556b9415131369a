#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ir/type.h"

namespace moai::ir {

// One step of a canonical view. Sizes and dims refer to the step's input.
struct ViewStep {
  enum class Kind : uint8_t {
    kReshape,  // `dims` = the new sizes; row-major order of elements is kept
    kSlice,    // `dims` = {dim, start, length, step}
    kPermute,  // `dims` = the order
    kExpand,   // `dims` = the new sizes; a size of 1 is repeated
  };
  Kind kind;
  Dims dims;
};

// Factors a strided view of a densely laid out value into slice, reshape, permute and expand.
//
// The strides and the offset of the view are read as numbers in the mixed radix of the base's
// layout: each dim of the view walks one digit (or a run of neighbouring digits), the rest of the
// offset is where the slices start. Digits are the base's dims where the view keeps them apart, and
// are divided or joined where it does not. Every chain of views that torch has finds a form, in few
// steps and always the same for the same strides. Returns nothing when there is none: two dims that
// walk over the same elements (unfold, a diagonal of both its dims), negative strides, rows that do
// not fill the base, another dtype.
//
// * `base`: must be dense (a permutation of a contiguous layout); otherwise returns nothing.
// * `view`, `offset`: strides and offset in elements of the same dtype, over the base's storage.
//   A view that leaves the base has no form.
//
// Strides of dims of size 0 and 1 mean nothing: the steps give others there.
std::optional<std::vector<ViewStep>> factor_view(const Type& base, const Type& view, int64_t offset);

// Applies steps to a strided type, as torch would (reshape of a non-contiguous input is only
// defined where it needs no copy; otherwise returns false). Used to check a factoring.
bool apply_steps(const Type& base, const std::vector<ViewStep>& steps, Type* out, int64_t* offset);

std::string str(const ViewStep& step);

}  // namespace moai::ir
