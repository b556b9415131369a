#include "engine/measurements.h"

#include "catch.h"

namespace moai::engine {
namespace {

std::shared_ptr<const Prediction> predicted(double compute, double communicate, bool is_corrected = false) {
  Prediction made;
  made.step_seconds = compute + communicate;
  made.compute_seconds = compute;
  made.communicate_seconds = communicate;
  made.is_corrected = is_corrected;
  return std::make_shared<const Prediction>(made);
}

// The correction that a run brings on, when `runs` of them are alike; asked for after each.
std::vector<Correction> corrections(const std::shared_ptr<const Prediction>& of, const Parts& parts,
                                    int runs) {
  Measurements measurements;
  std::vector<Correction> all;
  for (int i = 0; i < runs; ++i) {
    measurements.add("data 2", of, parts);
    if (const auto one = measurements.correction(of)) all.push_back(*one);
  }
  return all;
}

TEST_CASE("what_is_off_by_more_than_a_fifth_is_corrected_once_part_by_part") {
  const auto all = corrections(predicted(1, 0.5), {3, 1, 0.25}, 100);
  REQUIRE(all.size() == 1);
  CHECK(all[0].compute == Approx(3));
  CHECK(all[0].communicate == Approx(2));
  CHECK(corrections(predicted(1, 0.5), {0.5, 0.5, 0}, 100).size() == 1);       // shorter
  CHECK(corrections(predicted(1, 0.5), {1, 0.5, 0.5}, 100).size() == 1);       // waiting counts
  CHECK(corrections(predicted(1, 0), {2, 0.01, 0}, 100)[0].communicate == 1);  // nothing to correct
}

TEST_CASE("what_is_near_or_was_corrected_already_is_left_alone") {
  CHECK(corrections(predicted(1, 0.5), {1.2, 0.55, 0}, 100).empty());
  CHECK(corrections(predicted(1, 0.5), {0.9, 0.4, 0}, 100).empty());
  CHECK(corrections(predicted(1, 0.5, true), {3, 1, 0}, 100).empty());
  CHECK(corrections(predicted(1, 0.5), {3, 1, 0}, 5).empty());  // too few
}

TEST_CASE("a_slow_beginning_is_no_measurement") {
  const auto of = predicted(1, 0);
  Measurements measurements;
  for (int i = 0; i < 100; ++i) {
    measurements.add("", of, {i < 3 ? 50.0 : 1.0, 0, 0});
    CHECK_FALSE(measurements.correction(of));
  }
}

TEST_CASE("another_plan_begins_anew") {
  const auto first = predicted(1, 0), second = predicted(1, 0);
  Measurements measurements;
  for (int i = 0; i < 100; ++i) {
    const auto& of = i % 2 == 0 ? first : second;
    measurements.add(i % 2 == 0 ? "a" : "b", of, {9, 0, 0});
    CHECK_FALSE(measurements.correction(of));
    CHECK(measurements.explained().runs.size() == 1);
    CHECK(measurements.explained().layout == (i % 2 == 0 ? "a" : "b"));
  }
}

}  // namespace
}  // namespace moai::engine
