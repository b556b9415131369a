#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "plan/mesh.h"
#include "plan/part.h"

namespace moai::compile {

using plan::Part;
using plan::part_of;

// One device of a mesh.
struct Place {
  std::vector<int32_t> mesh;         // axis sizes, outermost first
  std::vector<int32_t> coordinates;  // by axis

  // Which part is its where `axes` (ascending) divide something, and how many parts there are.
  std::pair<int64_t, int64_t> index(const std::vector<int64_t>& axes) const;
  // Its part of `size` elements that `axes` (ascending) divide, the first one outermost.
  Part part(int64_t size, const std::vector<int64_t>& axes) const;
  // The lengths of such parts over its group along the last of `axes`.
  std::vector<int64_t> lengths(int64_t size, const std::vector<int64_t>& axes) const;
};

// Every device of a mesh, in row-major order of coordinates.
std::vector<Place> places_of(const std::vector<int32_t>& mesh);

// The axes along which a placement shards atom `leaf` of `dim`, ascending.
std::vector<int64_t> axes_of(const plan::Placement& placement, int16_t dim, int16_t leaf);

using LeafSizes = std::vector<std::vector<int64_t>>;  // by dim: the sizes of its atoms

// A value's parts, by dim and atom.
std::vector<std::vector<Part>> parts_of(const Place& place, const LeafSizes& whole,
                                        const plan::Placement& placement);

// The sizes of a value that has such parts.
ir::Dims sizes_of(const std::vector<std::vector<Part>>& parts);

}  // namespace moai::compile
