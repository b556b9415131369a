#include "runtime/reduce.h"

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "catch.h"

namespace moai::runtime {
namespace {

using ir::DType;

// Reduces one element of each source.
template <typename Element>
Element reduced(DType dtype, Reduce how, const std::vector<Element>& values) {
  std::vector<const void*> sources;
  for (const Element& value : values) sources.push_back(&value);
  Element result{};
  void* target = &result;
  reduce(dtype, how, sources.data(), static_cast<int>(sources.size()), &target, 1, 1);
  return result;
}

template <typename To, typename From>
To as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

TEST_CASE("each_reduction_of_each_type_is_what_it_says") {
  const auto f32 = [](Reduce how, std::vector<float> v) { return reduced(DType::kF32, how, v); };
  CHECK(f32(Reduce::kSum, {1.5f, 2, -4}) == -0.5f);
  CHECK(f32(Reduce::kProduct, {1.5f, 2, -4}) == -12);
  CHECK(f32(Reduce::kMax, {1.5f, 2, -4}) == 2);
  CHECK(f32(Reduce::kMin, {1.5f, 2, -4}) == -4);
  CHECK(f32(Reduce::kMean, {1.5f, 2, -5}) == -0.5f);
  CHECK(f32(Reduce::kSum, {7}) == 7);
  CHECK(f32(Reduce::kSum, {1e8f, 1, -1e8f}) == 0);  // from left to right
  CHECK(f32(Reduce::kSum, {1e8f, -1e8f, 1}) == 1);
  const double tenth = reduced<double>(DType::kF64, Reduce::kSum, {0.1, 0.2});
  CHECK(tenth == 0.1 + 0.2);
  CHECK(reduced<int64_t>(DType::kI64, Reduce::kSum, {INT64_MAX, 1}) == INT64_MIN);
  CHECK(reduced<int64_t>(DType::kI64, Reduce::kMax, {INT64_MIN, INT64_MAX}) == INT64_MAX);
  CHECK(reduced<int32_t>(DType::kI32, Reduce::kProduct, {1 << 30, 4, 3}) == 0);
  CHECK(reduced<int32_t>(DType::kI32, Reduce::kMin, {-7, 3}) == -7);
  CHECK(reduced<int16_t>(DType::kI16, Reduce::kSum, {30000, 30000}) == int16_t(60000 - 65536));
  CHECK(reduced<int8_t>(DType::kI8, Reduce::kProduct, {100, 3}) == int8_t(300 - 256));
  CHECK(reduced<uint8_t>(DType::kU8, Reduce::kSum, {200, 100}) == 44);
  CHECK(reduced<uint8_t>(DType::kU8, Reduce::kMax, {200, 100}) == 200);
  for (const auto& [how, or_else] : {std::pair(Reduce::kSum, true), std::pair(Reduce::kMax, true),
                                     std::pair(Reduce::kProduct, false), std::pair(Reduce::kMin, false)}) {
    CHECK(reduced<uint8_t>(DType::kBool, how, {0, 1}) == or_else);
    CHECK(reduced<uint8_t>(DType::kBool, how, {1, 1}) == 1);
    CHECK(reduced<uint8_t>(DType::kBool, how, {0, 0}) == 0);
  }
  using Complex = std::array<float, 2>;
  CHECK(reduced<Complex>(DType::kC64, Reduce::kMean, {{1, 2}, {5, -4}}) == Complex{3, -1});
}

TEST_CASE("a_nan_wins_wherever_it_stands") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const Reduce how : {Reduce::kMax, Reduce::kMin}) {
    CHECK(std::isnan(reduced<float>(DType::kF32, how, {nan, 1, 2})));
    CHECK(std::isnan(reduced<float>(DType::kF32, how, {1, nan, 2})));
    CHECK(std::isnan(reduced<float>(DType::kF32, how, {1, 2, nan})));
  }
}

TEST_CASE("what_a_type_lacks_is_known") {
  for (const DType dtype : {DType::kI64, DType::kU8, DType::kBool}) {
    CHECK_FALSE(can_reduce(dtype, Reduce::kMean));
    CHECK(can_reduce(dtype, Reduce::kSum));
  }
  CHECK_FALSE(can_reduce(DType::kC64, Reduce::kMax));
  CHECK_FALSE(can_reduce(DType::kF8E5M2, Reduce::kSum));
}

// The value of a half, from its fields.
double value_of_half(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int mantissa = bits & 1023;
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == 31) return mantissa != 0 ? std::nan("") : sign * INFINITY;
  return exponent == 0 ? sign * std::ldexp(mantissa, -24) : sign * std::ldexp(1024 + mantissa, exponent - 25);
}

double value_of_bf16(uint16_t bits) { return as<float>(uint32_t{bits} << 16); }

// Of all elements, one nearest to `exact`; of two the one with an even last bit. Beyond the largest, infinity
// stands where the next number would.
uint16_t nearest(double exact, double (*value_of)(uint16_t), uint16_t infinity) {
  const uint16_t sign = std::signbit(exact) ? 0x8000 : 0;
  const double magnitude = std::fabs(exact);
  uint16_t low = 0;
  uint16_t high = infinity;
  while (high - low > 1) {
    const auto middle = static_cast<uint16_t>((low + high) / 2);
    (value_of(middle) <= magnitude ? low : high) = middle;
  }
  const double above =
      high == infinity ? value_of(low) + (value_of(low) - value_of(low - 1)) : value_of(high);
  const double below = magnitude - value_of(low);
  const double rest = above - magnitude;
  const bool up = below > rest || (below == rest && (low & 1));
  return sign | (up ? high : low);
}

TEST_CASE("half_precision_sums_are_rounded_once_to_nearest") {
  struct Row {
    DType dtype;
    double (*value_of)(uint16_t);
    uint16_t infinity;
  };
  for (const Row& row : {Row{DType::kF16, value_of_half, 0x7c00}, Row{DType::kBF16, value_of_bf16, 0x7f80}}) {
    for (uint32_t a = 0; a < 0x10000; a += 1) {
      const double first = row.value_of(static_cast<uint16_t>(a));
      const auto alone = reduced<uint16_t>(row.dtype, Reduce::kSum, {static_cast<uint16_t>(a)});
      if (std::isnan(first)) {
        REQUIRE(std::isnan(row.value_of(alone)));
        continue;
      }
      REQUIRE(alone == a);  // what is not changed stays bit for bit, zeros' signs too
      const auto other = static_cast<uint16_t>((a * 40503u) >> 3);
      const double second = row.value_of(other);
      if (std::isnan(second) || std::isinf(first) || std::isinf(second)) continue;
      // f32 holds the sum of two such numbers only where their exponents are near; round twice as the code
      // does.
      const double exact = static_cast<double>(static_cast<float>(first) + static_cast<float>(second));
      if (exact == 0) continue;
      const auto sum = reduced<uint16_t>(row.dtype, Reduce::kSum, {static_cast<uint16_t>(a), other});
      REQUIRE(sum == nearest(exact, row.value_of, row.infinity));
    }
  }
}

TEST_CASE("long_rows_end_where_they_should_and_targets_may_be_sources") {
  for (const int64_t count : {1, 1023, 1024, 1025, 5000}) {
    std::vector<std::vector<float>> rows(3, std::vector<float>(count + 1));
    for (int r = 0; r < 3; ++r) {
      for (int64_t i = 0; i <= count; ++i) rows[r][i] = static_cast<float>(100 * r + i % 17);
    }
    std::vector<float> wanted(count);
    for (int64_t i = 0; i < count; ++i) wanted[i] = static_cast<float>(300 + 3 * (i % 17));
    const void* sources[] = {rows[0].data(), rows[1].data(), rows[2].data()};
    void* targets[] = {rows[2].data(), rows[0].data()};
    const float after = rows[2][count];
    reduce(DType::kF32, Reduce::kSum, sources, 3, targets, 2, count);
    for (const int r : {0, 2}) CHECK(std::equal(wanted.begin(), wanted.end(), rows[r].begin()));
    CHECK(rows[2][count] == after);
  }
}

}  // namespace
}  // namespace moai::runtime
