// Views of small tensors, and walks over their elements.
#pragma once

#include <algorithm>
#include <iterator>
#include <numeric>
#include <random>
#include <utility>

#include "ir/type.h"

namespace moai::ir {

// Calls `visit` with every index into `sizes`, in row-major order.
template <typename Visit>
void for_each_index(const Dims& sizes, const Visit& visit) {
  if (std::find(sizes.begin(), sizes.end(), 0) != sizes.end()) return;
  Dims index(sizes.size(), 0);
  while (true) {
    visit(index);
    size_t d = sizes.size();
    while (d > 0 && ++index[d - 1] == sizes[d - 1]) index[--d] = 0;
    if (d == 0) return;
  }
}

// Views as a script makes them: one after another, on a small tensor in some dense layout.
class RandomViews {
 public:
  explicit RandomViews(uint32_t seed) : random_(seed) {}

  int64_t below(int64_t end) { return static_cast<int64_t>(random_() % static_cast<uint64_t>(end)); }

  // A dense tensor in a random layout.
  Type base() {
    Dims sizes(below(5));
    for (int64_t& size : sizes) size = kSizes[below(std::size(kSizes))];
    Dims order(sizes.size());
    std::iota(order.begin(), order.end(), 0);
    if (below(2)) std::shuffle(order.begin(), order.end(), random_);
    Type type{DType::kF32, sizes, Dims(sizes.size())};
    int64_t stride = 1;
    for (const int64_t d : order) {
      type.strides[d] = stride;
      stride *= sizes[d];
    }
    return type;
  }

  // One step of a chain: every kind of view, or only those that show each element once.
  void step(Type* type, int64_t* offset, bool may_repeat = true) {
    const auto dims = static_cast<int64_t>(type->sizes.size());
    switch (below(9)) {
      case 0: return slice(type, offset);
      case 1: return select(type, offset);
      case 2: return permute(type);
      case 3: return may_repeat ? expand(type) : permute(type);
      case 4: return unsqueeze(type);
      case 5: return squeeze(type);
      case 6:
      case 7: return split(type);
      case 8:
        for (int64_t tries = 0; tries < dims; ++tries) merge(type);
        return;
    }
  }

 private:
  static constexpr int64_t kSizes[] = {1, 2, 3, 4, 4, 5, 6, 8, 9, 12};

  int64_t dim(const Type& type) { return below(static_cast<int64_t>(type.sizes.size())); }

  void slice(Type* type, int64_t* offset) {
    if (type->sizes.empty()) return;
    const int64_t d = dim(*type);
    const int64_t size = type->sizes[d];
    if (size == 0) return;
    const int64_t step = below(3) ? 1 : 1 + below(4);
    const int64_t start = below(size);
    const int64_t most = (size - start + step - 1) / step;
    *offset += start * type->strides[d];
    type->sizes[d] = 1 + below(most);
    type->strides[d] *= step;
  }

  void select(Type* type, int64_t* offset) {
    if (type->sizes.empty()) return;
    const int64_t d = dim(*type);
    if (type->sizes[d] == 0) return;
    *offset += below(type->sizes[d]) * type->strides[d];
    type->sizes.erase(type->sizes.begin() + d);
    type->strides.erase(type->strides.begin() + d);
  }

  void permute(Type* type) {
    if (type->sizes.empty()) return;
    const int64_t a = dim(*type);
    const int64_t b = dim(*type);
    std::swap(type->sizes[a], type->sizes[b]);
    std::swap(type->strides[a], type->strides[b]);
  }

  void expand(Type* type) {
    for (size_t d = 0; d < type->sizes.size(); ++d) {
      if (type->sizes[d] != 1 || below(2)) continue;
      type->sizes[d] = 1 + below(3);
      type->strides[d] = 0;
    }
  }

  void unsqueeze(Type* type) {
    const int64_t d = below(static_cast<int64_t>(type->sizes.size()) + 1);
    type->sizes.insert(type->sizes.begin() + d, 1);
    type->strides.insert(type->strides.begin() + d, 1 + below(20));
  }

  void squeeze(Type* type) {
    for (size_t d = type->sizes.size(); d-- > 0;) {
      if (type->sizes[d] != 1 || below(2)) continue;
      type->sizes.erase(type->sizes.begin() + static_cast<int64_t>(d));
      type->strides.erase(type->strides.begin() + static_cast<int64_t>(d));
    }
  }

  void split(Type* type) {
    if (type->sizes.empty()) return;
    const int64_t d = dim(*type);
    if (type->sizes[d] == 0) return;
    const int64_t inner = 1 + below(type->sizes[d]);
    if (type->sizes[d] % inner) return;
    type->sizes[d] /= inner;
    type->sizes.insert(type->sizes.begin() + d + 1, inner);
    type->strides.insert(type->strides.begin() + d + 1, type->strides[d]);
    type->strides[d] *= inner;
  }

  void merge(Type* type) {
    if (type->sizes.size() < 2) return;
    const int64_t d = below(static_cast<int64_t>(type->sizes.size()) - 1);
    if (type->strides[d] != type->strides[d + 1] * type->sizes[d + 1]) return;
    type->sizes[d] *= type->sizes[d + 1];
    type->strides[d] = type->strides[d + 1];
    type->sizes.erase(type->sizes.begin() + d + 1);
    type->strides.erase(type->strides.begin() + d + 1);
  }

  std::mt19937 random_;
};

}  // namespace moai::ir
