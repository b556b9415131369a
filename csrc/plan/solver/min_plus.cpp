#include "plan/solver/min_plus.h"

#include <algorithm>
#include <limits>

// Twice as fast where the processor has wider lanes; which it has is asked when the library is loaded.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
#define MOAI_WIDE_LANES __attribute__((target_clones("avx2", "default")))
#else
#define MOAI_WIDE_LANES
#endif

namespace moai::plan {

namespace {

// The form that is one instruction; std::min takes references.
inline double least(double a, double b) { return a < b ? a : b; }

}  // namespace

MOAI_WIDE_LANES void min_plus_rows(const double* base, const double* const* rows, int32_t count,
                                   int32_t length, double* __restrict out) {
  std::fill(out, out + length, std::numeric_limits<double>::infinity());
  int32_t r = 0;
  for (; r + 4 <= count; r += 4) {  // four at a time: a quarter of the loads and stores of `out`
    const double* __restrict row0 = rows[r];
    const double* __restrict row1 = rows[r + 1];
    const double* __restrict row2 = rows[r + 2];
    const double* __restrict row3 = rows[r + 3];
    const double base0 = base[r];
    const double base1 = base[r + 1];
    const double base2 = base[r + 2];
    const double base3 = base[r + 3];
    for (int32_t j = 0; j < length; ++j) {
      const double left = least(base0 + row0[j], base1 + row1[j]);
      const double right = least(base2 + row2[j], base3 + row3[j]);
      out[j] = least(out[j], least(left, right));
    }
  }
  for (; r < count; ++r) {
    const double* __restrict row = rows[r];
    const double of_row = base[r];
    for (int32_t j = 0; j < length; ++j) out[j] = least(out[j], of_row + row[j]);
  }
}

MOAI_WIDE_LANES double min_plus_row(const double* __restrict row, const double* __restrict add,
                                    int32_t length) {
  constexpr int32_t kLanes = 8;
  double lanes[kLanes];
  std::fill(lanes, lanes + kLanes, std::numeric_limits<double>::infinity());
  int32_t j = 0;
  for (; j + kLanes <= length; j += kLanes) {
    for (int32_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] = least(lanes[lane], row[j + lane] + add[j + lane]);
    }
  }
  double lowest = std::numeric_limits<double>::infinity();
  for (; j < length; ++j) lowest = least(lowest, row[j] + add[j]);
  for (const double lane : lanes) lowest = least(lowest, lane);
  return lowest;
}

MOAI_WIDE_LANES void add_row(const double* __restrict row, int32_t length, double* __restrict out) {
  for (int32_t j = 0; j < length; ++j) out[j] += row[j];
}

}  // namespace moai::plan
