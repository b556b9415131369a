#pragma once

#include <cstdint>
#include <vector>

namespace moai::aten {

// Which part of a whole tensor of random numbers is drawn here. Its elements have the indices that they have
// in the whole, counted in logical order: see Note [Random numbers].
//
// The whole is a box of atoms, outermost first, and the part a box within it. It is gone through by runs of
// indices that follow each other, so that no element costs a division.
class SampledPart {
 public:
  // Everything, whatever its size.
  SampledPart() = default;
  // `places`: for each atom its size in the whole, where the part starts, and how long it is.
  explicit SampledPart(const std::vector<int64_t>& places);

  bool is_everything() const { return is_everything_; }
  int64_t numel() const;
  // Whether its elements lie side by side in the whole; the first is number `start()` there.
  bool is_one_run() const { return outer_.empty(); }
  int64_t start() const { return start_; }

  // The part in which each element is so many, as the real and the imaginary part of a number.
  SampledPart times(int64_t inner) const;

  // Calls run(n, index, length) for elements [begin, end) of the part: `length` of them, from its n-th on,
  // lie side by side in the whole, from `index` on.
  template <typename F>
  void for_runs(int64_t begin, int64_t end, const F& run) const {
    if (begin >= end) return;
    if (outer_.empty()) {
      run(begin, start_ + begin, end - begin);
      return;
    }
    std::vector<int64_t> digits(outer_.size());
    int64_t index = start_, rest = begin / run_, within = begin % run_;
    for (size_t i = outer_.size(); i-- > 0;) {
      digits[i] = rest % outer_[i].length;
      rest /= outer_[i].length;
      index += digits[i] * outer_[i].stride;
    }
    for (int64_t n = begin; n < end;) {
      const int64_t length = end - n < run_ - within ? end - n : run_ - within;
      run(n, index + within, length);
      n += length;
      within = 0;
      for (size_t i = outer_.size(); i-- > 0;) {
        index += outer_[i].stride;
        if (++digits[i] < outer_[i].length) break;
        index -= outer_[i].stride * outer_[i].length;
        digits[i] = 0;
      }
    }
  }

 private:
  struct Level {
    int64_t length;  // of the part
    int64_t stride;  // in the whole
  };

  bool is_everything_ = true;
  std::vector<Level> outer_;  // levels of runs, outermost first
  int64_t run_ = 0;    // elements side by side; read where there are levels, or not everything is drawn
  int64_t start_ = 0;  // index of the first element
};

}  // namespace moai::aten
