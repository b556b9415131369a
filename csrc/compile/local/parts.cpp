#include "compile/local/parts.h"

#include "compile/local/collective.h"

namespace moai::compile {

std::pair<int64_t, int64_t> Place::index(const std::vector<int64_t>& axes) const {
  int64_t index = 0, count = 1;
  for (const auto a : axes) {
    index = index * mesh[a] + coordinates[a];
    count *= mesh[a];
  }
  return {index, count};
}

Part Place::part(int64_t size, const std::vector<int64_t>& axes) const {
  const auto [own, count] = index(axes);
  return part_of(size, own, count);
}

std::vector<int64_t> Place::lengths(int64_t size, const std::vector<int64_t>& axes) const {
  std::vector<int64_t> lengths;
  Place member = *this;
  for (int32_t i = 0; i < mesh[axes.back()]; ++i) {
    member.coordinates[axes.back()] = i;
    lengths.push_back(member.part(size, axes).length);
  }
  return lengths;
}

std::vector<Place> places_of(const std::vector<int32_t>& mesh) {
  int32_t devices = 1;
  for (const auto size : mesh) devices *= size;
  std::vector<Place> places;
  for (int32_t d = 0; d < devices; ++d) places.push_back({mesh, coordinates_of(mesh, d)});
  return places;
}

std::vector<int64_t> axes_of(const plan::Placement& placement, int16_t dim, int16_t leaf) {
  const plan::Split split{plan::Split::Kind::kShard, dim, leaf};
  std::vector<int64_t> axes;
  for (size_t a = 0; a < placement.size(); ++a) {
    if (placement[a] == split) axes.push_back(static_cast<int64_t>(a));
  }
  return axes;
}

std::vector<std::vector<Part>> parts_of(const Place& place, const LeafSizes& whole,
                                        const plan::Placement& placement) {
  std::vector<std::vector<Part>> parts(whole.size());
  for (size_t d = 0; d < whole.size(); ++d) {
    for (size_t k = 0; k < whole[d].size(); ++k)
      parts[d].push_back(
          place.part(whole[d][k], axes_of(placement, static_cast<int16_t>(d), static_cast<int16_t>(k))));
  }
  return parts;
}

ir::Dims sizes_of(const std::vector<std::vector<Part>>& parts) {
  ir::Dims sizes;
  for (const auto& dim : parts) {
    sizes.push_back(1);
    for (const auto& part : dim) sizes.back() *= part.length;
  }
  return sizes;
}

}  // namespace moai::compile
