#pragma once

#include <cstdint>
#include <vector>

#include "plan/mesh.h"

namespace moai::compile {

struct Part {
  int64_t start = 0;
  int64_t length = 0;
};

// Part `index` of `count` of a range; sizes differ by one at most. A part of a part is a part of the whole:
// parts [i n, i n + n) of m n together are part i of m.
Part part_of(int64_t size, int64_t index, int64_t count);

// One device of a mesh.
struct Place {
  std::vector<int32_t> mesh;         // axis sizes, outermost first
  std::vector<int32_t> coordinates;  // by axis

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
