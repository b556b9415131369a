#include "compile/arena.h"

#include <algorithm>
#include <random>
#include <stdexcept>

#include "catch.h"

namespace moai::compile {
namespace {

class RandomIntervals {
 public:
  explicit RandomIntervals(uint32_t seed) : random_(seed) {}

  int32_t below(int32_t end) { return static_cast<int32_t>(random_() % static_cast<uint32_t>(end)); }

  int64_t bytes() {
    constexpr int64_t kSizes[] = {0, 1, 64, 100, 4096, 65536, 1 << 20, 12 << 20};
    return kSizes[below(8)] * (1 + below(2));
  }

  // Any lifetimes.
  std::vector<Interval> any(int32_t count) {
    const int32_t longest = 1 + below(30);
    std::vector<Interval> intervals;
    for (int32_t i = 0; i < count; ++i) {
      const int32_t first = below(count);
      intervals.push_back({bytes(), first, first + below(longest)});
    }
    return intervals;
  }

  // A step of training: half of what forward makes is kept until backward comes by it, in reverse; gradients
  // of parameters live to the end.
  std::vector<Interval> training(int32_t nodes) {
    std::vector<Interval> intervals;
    for (int32_t i = 0; i < nodes; ++i) {
      const int32_t mirror = 2 * nodes - 1 - i;
      intervals.push_back({bytes(), i, below(2) ? i + 1 + below(4) : mirror + below(8)});
      intervals.push_back({bytes(), mirror, below(5) ? mirror + 1 + below(5) : 2 * nodes + below(20)});
    }
    return intervals;
  }

 private:
  std::mt19937 random_;
};

void check(const std::vector<Interval>& intervals, int64_t alignment = 64) {
  const ArenaPlan plan = plan_arena(intervals, alignment);
  REQUIRE(plan.offsets.size() == intervals.size());
  int64_t top = 0;
  for (size_t i = 0; i < intervals.size(); ++i) {
    const Interval& a = intervals[i];
    REQUIRE((plan.offsets[i] >= 0 && plan.offsets[i] % alignment == 0));
    if (a.bytes == 0) continue;
    top = std::max(top, plan.offsets[i] + a.bytes);
    for (size_t j = 0; j < i; ++j) {
      const Interval& b = intervals[j];
      if (b.bytes == 0 || a.first > b.last || b.first > a.last) continue;
      const bool apart =
          plan.offsets[i] + a.bytes <= plan.offsets[j] || plan.offsets[j] + b.bytes <= plan.offsets[i];
      if (!apart) FAIL("buffers " << j << " and " << i << " overlap");
    }
  }
  REQUIRE((top <= plan.bytes && plan.bytes < top + alignment));

  int64_t most = 0;
  for (const Interval& at : intervals) {
    int64_t live = 0;
    for (const Interval& other : intervals) {
      if (other.first > at.first || other.last < at.first) continue;
      live += (other.bytes + alignment - 1) / alignment * alignment;
    }
    if (at.bytes) most = std::max(most, live);
  }
  REQUIRE(plan.lower_bound == most);
  REQUIRE(plan.bytes >= plan.lower_bound);
}

TEST_CASE("buffers_alive_together_lie_apart") {
  for (uint32_t seed = 0; seed < 3000; ++seed) {
    INFO("seed " << seed);
    RandomIntervals random(seed);
    check(random.any(1 + random.below(60)), seed % 3 ? 64 : 1 + random.below(300));
    check(random.training(1 + random.below(30)));
  }
}

TEST_CASE("buffers_alive_together_lie_apart_when_they_are_many") {
  RandomIntervals random(7);
  check(random.training(1500));
  check(random.any(3000));
  // More than are placed one by one, of one size each and of any size.
  std::vector<Interval> many = random.any(9000);
  check(many);
  for (Interval& interval : many) interval.bytes = 64;
  check(many);
}

TEST_CASE("training_wastes_little") {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    INFO("seed " << seed);
    RandomIntervals random(seed);
    const ArenaPlan plan = plan_arena(random.training(500));
    CHECK(static_cast<double>(plan.bytes) <= 1.01 * static_cast<double>(plan.lower_bound));
  }
}

TEST_CASE("nested_and_disjoint_buffers_waste_nothing") {
  std::vector<Interval> nested;
  std::vector<Interval> disjoint;
  for (int32_t i = 0; i < 100; ++i) {
    nested.push_back({64 * (1 + i % 7), i, 1000 - i});
    disjoint.push_back({64 * (1 + i % 7), 2 * i, 2 * i + 1});
  }
  CHECK(plan_arena(nested).bytes == plan_arena(nested).lower_bound);
  CHECK(plan_arena(disjoint).bytes == 64 * 7);
}

TEST_CASE("ends_are_inclusive") {
  CHECK(plan_arena({{64, 0, 1}, {64, 1, 2}}).bytes == 128);
  CHECK(plan_arena({{64, 0, 1}, {64, 2, 2}}).bytes == 64);
}

TEST_CASE("empty_buffers_take_no_room") {
  CHECK(plan_arena({}).bytes == 0);
  CHECK(plan_arena({{0, 3, 4}}).bytes == 0);
  CHECK(plan_arena({{1, 3, 4}, {0, 3, 4}}).bytes == 64);
}

TEST_CASE("arena_refuses_nonsense") {
  CHECK_THROWS_AS(plan_arena({{-1, 0, 0}}), std::logic_error);
  CHECK_THROWS_AS(plan_arena({{1, 2, 1}}), std::logic_error);
}

}  // namespace
}  // namespace moai::compile
