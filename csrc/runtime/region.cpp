#include "runtime/region.h"

#include <algorithm>

namespace moai::runtime {

Region Region::of(const ir::Dims& sizes, const ir::Dims& strides, int64_t offset, int64_t element_bytes) {
  Region region;
  region.start = offset * element_bytes;
  int64_t last = 0;
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (sizes[d] == 0) return region;
    if (sizes[d] == 1 || strides[d] == 0) continue;
    region.dims.emplace_back(sizes[d], strides[d] * element_bytes);
    last += (sizes[d] - 1) * strides[d] * element_bytes;
  }
  region.run = element_bytes;
  std::sort(region.dims.begin(), region.dims.end(),
            [](const auto& a, const auto& b) { return a.second > b.second; });
  int64_t reach = element_bytes;  // of all inner dims together
  for (size_t d = region.dims.size(); d-- > 0;) {
    const auto [count, stride] = region.dims[d];
    if (stride < reach) {
      region.dims.clear();
      region.run = last + element_bytes;
      return region;
    }
    reach = (count - 1) * stride + reach;
  }
  while (!region.dims.empty() && region.dims.back().second == region.run) {
    region.run *= region.dims.back().first;
    region.dims.pop_back();
  }
  return region;
}

std::vector<std::pair<int64_t, int64_t>> Region::runs() const {
  std::vector<std::pair<int64_t, int64_t>> all;
  if (run == 0) return all;
  std::vector<int64_t> index(dims.size(), 0);
  for (int64_t at = start;;) {
    all.emplace_back(at, at + run);
    size_t d = dims.size();
    for (; d-- > 0;) {
      at += dims[d].second;
      if (++index[d] < dims[d].first) break;
      at -= dims[d].first * dims[d].second;
      index[d] = 0;
    }
    if (d == static_cast<size_t>(-1)) return all;
  }
}

std::pair<int64_t, int64_t> Region::extent() const {
  int64_t end = start + run;
  for (const auto& [count, stride] : dims) end += (count - 1) * stride;
  return {start, end};
}

}  // namespace moai::runtime
