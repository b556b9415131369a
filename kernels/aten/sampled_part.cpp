#include "kernels/aten/sampled_part.h"

#include "ir/error.h"

namespace moai::aten {

SampledPart::SampledPart(const std::vector<int64_t>& places) : is_everything_(false) {
  MOAI_ASSERT(places.size() % 3 == 0, "a sampler's part is three numbers an atom, not ", places.size());
  struct Atom {
    int64_t size, start, length;
  };
  // Joined with the atom before it where the two are one run: all of the inner one, or one of the outer.
  std::vector<Atom> atoms{{1, 0, 1}};
  for (size_t i = 0; i < places.size(); i += 3) {
    const Atom inner{places[i], places[i + 1], places[i + 2]};
    MOAI_ASSERT(inner.start >= 0 && inner.length >= 0 && inner.start + inner.length <= inner.size,
                "a sampler's part is not within its whole: ", inner.start, " + ", inner.length, " of ",
                inner.size);
    Atom& outer = atoms.back();
    if (inner.length == inner.size || outer.length == 1) {
      outer = {outer.size * inner.size, outer.start * inner.size + inner.start,
               inner.length == inner.size ? outer.length * inner.size : inner.length};
    } else {
      atoms.push_back(inner);
    }
  }
  run_ = atoms.back().length;
  start_ = atoms.back().start;
  int64_t stride = atoms.back().size;
  for (size_t i = atoms.size() - 1; i-- > 0;) {
    outer_.insert(outer_.begin(), {atoms[i].length, stride});
    start_ += atoms[i].start * stride;
    stride *= atoms[i].size;
  }
}

int64_t SampledPart::numel() const {
  int64_t numel = run_;
  for (const auto& level : outer_) numel *= level.length;
  return numel;
}

SampledPart SampledPart::times(int64_t inner) const {
  SampledPart more = *this;
  for (auto& level : more.outer_) level.stride *= inner;
  more.run_ *= inner;
  more.start_ *= inner;
  return more;
}

}  // namespace moai::aten
