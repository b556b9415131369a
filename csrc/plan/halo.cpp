#include "plan/halo.h"

#include <algorithm>

namespace moai::plan {

Halo::Halo(const ops::Window& window, int64_t seen, int64_t seen_inner, int64_t seers, int64_t seers_inner,
           int64_t parts) {
  const auto run = [&](int64_t size, int64_t inner, int64_t i) {
    const Part groups = part_of(size / inner, i, parts);
    return Part{groups.start * inner, groups.length * inner};
  };
  for (int64_t i = 0; i < parts; ++i) {
    own_.push_back(run(seen, seen_inner, i));
    const Part by = run(seers, seers_inner, i);
    const int64_t reach = (window.size - 1) * window.dilation + 1;
    seen_.push_back({by.start * window.stride - window.padding, (by.length - 1) * window.stride + reach});
    real_.push_back(common(seen_.back(), {0, seen}));
  }
  first_.resize(own_.size());
  last_.resize(own_.size());
  for (int64_t i = 0; i < parts; ++i) find_given(i);
}

// Later parts see later places: of those before this one the last sees furthest, of those behind it the
// first.
void Halo::find_given(int64_t part) {
  const Part& own = own_[part];
  int64_t first = own.start, last = own.end();
  if (part > 0) first = std::clamp(real_[part - 1].end(), own.start, own.end());
  if (part + 1 < parts()) last = std::clamp(real_[part + 1].start, own.start, own.end());
  if (first >= last) first = last = own.end();
  first_[part] = {own.start, first - own.start};
  last_[part] = {last, own.end() - last};
}

int64_t Halo::most_seen() const {
  int64_t most = 0;
  for (const auto& seen : seen_) most = std::max(most, seen.length);
  return most;
}

int64_t Halo::returned(int64_t part) const { return real_[part].length - foreign(part, part).length; }

int64_t Halo::all_given() const {
  int64_t all = 0;
  for (int64_t i = 0; i < parts(); ++i) all += given(i);
  return all;
}

int64_t Halo::all_returned() const {
  int64_t all = 0;
  for (int64_t i = 0; i < parts(); ++i) all += returned(i);
  return all;
}

}  // namespace moai::plan
