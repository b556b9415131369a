#include "plan/pipeline/stages.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <utility>

#include "ir/error.h"

namespace moai::plan {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::vector<double> prefix_sums(const std::vector<double>& values) {
  std::vector<double> sums(values.size() + 1, 0);
  for (size_t i = 0; i < values.size(); ++i) sums[i + 1] = sums[i] + values[i];
  return sums;
}

// A problem with its sums. Stages are [i, j).
class Line {
 public:
  explicit Line(const StageProblem& problem)
      : problem_(problem),
        cut_seconds_(problem.cut_seconds),
        seconds_(prefix_sums(problem.seconds)),
        state_bytes_(prefix_sums(problem.state_bytes)),
        activation_bytes_(prefix_sums(problem.activation_bytes)) {
    cut_seconds_.front() = 0;
    cut_seconds_.push_back(0);
  }

  int32_t positions() const { return static_cast<int32_t>(problem_.seconds.size()); }
  int32_t stages() const { return static_cast<int32_t>(problem_.limit_bytes.size()); }
  double work_seconds(int32_t i, int32_t j) const { return seconds_[j] - seconds_[i]; }
  double seconds(int32_t i, int32_t j) const {
    return work_seconds(i, j) + cut_seconds_[i] + cut_seconds_[j];
  }
  double cut_seconds(int32_t i) const { return cut_seconds_[i]; }
  double bytes(int32_t stage, int32_t i, int32_t j) const {
    return state_bytes_[j] - state_bytes_[i] +
           problem_.in_flight[stage] * (activation_bytes_[j] - activation_bytes_[i]);
  }
  double excess_bytes(int32_t stage, int32_t i, int32_t j) const {
    return bytes(stage, i, j) - problem_.limit_bytes[stage];
  }

 private:
  const StageProblem& problem_;
  std::vector<double> cut_seconds_;  // by where the cut is; none at either end
  std::vector<double> seconds_;      // of the positions before
  std::vector<double> state_bytes_;
  std::vector<double> activation_bytes_;
};

struct Best {
  double value;                 // infinite if there is no way
  std::vector<int32_t> begins;  // by stage; none then
};

// The best way to cut the line, from the best ways to cut [j, positions) into the stages after a first one.
//
// `step(stage, i, j, best, &value)` makes of the value of the rest that of a stage [i, j) before it, or
// infinity; it returns false where neither this nor a longer stage can come below `best`. Of equals the
// shortest wins.
template <typename Step>
Best best_cut(const Line& line, Step step) {
  const int32_t n = line.positions();
  const int32_t stages = line.stages();
  std::vector<double> rest(n + 1, kInfinity);  // by where it starts
  rest[n] = 0;
  std::vector<std::vector<int32_t>> ends(stages, std::vector<int32_t>(n, n));
  for (int32_t stage = stages - 1; stage >= 0; --stage) {
    const int32_t later = stages - 1 - stage;
    const int32_t starts_end = stage == 0 ? 1 : n - later;
    std::vector<double> values(n + 1, kInfinity);
    for (int32_t i = stage; i < starts_end; ++i) {
      for (int32_t j = later == 0 ? n : i + 1; j <= n - later; ++j) {
        double value = rest[j];
        if (!step(stage, i, j, values[i], &value)) break;
        if (!(value < values[i])) continue;
        values[i] = value;
        ends[stage][i] = j;
      }
    }
    rest = std::move(values);
  }
  Best best{rest[0], {}};
  if (best.value == kInfinity) return best;
  best.begins.push_back(0);
  for (int32_t k = 1; k < stages; ++k) best.begins.push_back(ends[k - 1][best.begins.back()]);
  return best;
}

void check_length(const std::vector<double>& values, const char* name, size_t length) {
  if (values.size() != length) {
    throw Error(Phase::kPlan,
                concat("stages: ", name, " of ", values.size(), " positions, seconds of ", length));
  }
  for (size_t i = 0; i < length; ++i) {
    if (values[i] >= 0 && values[i] <= 1e300) continue;
    throw Error(Phase::kPlan, concat("stages: ", name, " of position ", i, " is ", values[i]))
        .hint("would work: a finite number, not negative");
  }
}

void check(const StageProblem& problem) {
  const size_t n = problem.seconds.size();
  check_length(problem.seconds, "seconds", n);
  check_length(problem.state_bytes, "state_bytes", n);
  check_length(problem.activation_bytes, "activation_bytes", n);
  check_length(problem.cut_seconds, "cut_seconds", n);
  const size_t stages = problem.limit_bytes.size();
  if (stages < 1 || stages > n) {
    throw Error(Phase::kPlan, concat("stages: ", n, " positions cannot be cut into ", stages, " stages"))
        .hint(concat("would work: 1 to ", n, " stages"));
  }
  if (problem.in_flight.size() != stages) {
    throw Error(Phase::kPlan,
                concat("stages: in_flight of ", problem.in_flight.size(), " stages, limits of ", stages));
  }
  for (size_t k = 0; k < stages; ++k) {
    if (problem.in_flight[k] >= 0 && problem.limit_bytes[k] >= 0) continue;
    throw Error(Phase::kPlan, concat("stages: stage ", k, " has ", problem.in_flight[k],
                                     " micro-batches in flight in ", problem.limit_bytes[k], " bytes"))
        .hint("would work: numbers that are not negative");
  }
}

}  // namespace

std::vector<int32_t> in_flight_1f1b(int32_t stages, int32_t micro_batches) {
  std::vector<int32_t> in_flight(stages);
  for (int32_t k = 0; k < stages; ++k) in_flight[k] = std::min(micro_batches, stages - k);
  return in_flight;
}

StageCut cut_stages(const StageProblem& problem) {
  check(problem);
  const Line line(problem);

  const auto slower = [&](int32_t stage, int32_t i, int32_t j, double best, double* value) {
    if (line.excess_bytes(stage, i, j) > 0 || line.work_seconds(i, j) > best) return false;
    *value = std::max(*value, line.seconds(i, j));
    return true;
  };
  const double slowest = best_cut(line, slower).value;
  const auto cuts_within = [&](int32_t stage, int32_t i, int32_t j, double, double* value) {
    if (line.excess_bytes(stage, i, j) > 0 || line.work_seconds(i, j) > slowest) return false;
    *value = line.seconds(i, j) > slowest ? kInfinity : *value + line.cut_seconds(j);
    return true;
  };
  const auto larger_excess = [&](int32_t stage, int32_t i, int32_t j, double best, double* value) {
    const double excess = line.excess_bytes(stage, i, j);
    *value = std::max(*value, excess);
    return excess <= best;
  };
  StageCut cut;
  cut.fits = slowest < kInfinity;
  cut.begins = cut.fits ? best_cut(line, cuts_within).begins : best_cut(line, larger_excess).begins;
  for (int32_t k = 0; k < line.stages(); ++k) {
    const int32_t end = k + 1 < line.stages() ? cut.begins[k + 1] : line.positions();
    cut.seconds.push_back(line.seconds(cut.begins[k], end));
    cut.bytes.push_back(line.bytes(k, cut.begins[k], end));
  }
  return cut;
}

void require_fits(const StageProblem& problem, const StageCut& cut) {
  if (cut.fits) return;
  size_t worst = 0;
  for (size_t k = 0; k < cut.bytes.size(); ++k) {
    const double excess = cut.bytes[k] - problem.limit_bytes[k];
    if (excess > cut.bytes[worst] - problem.limit_bytes[worst]) worst = k;
  }
  const size_t end = worst + 1 < cut.begins.size() ? cut.begins[worst + 1] : problem.seconds.size();
  throw Error(Phase::kPlan, concat("no cut into ", cut.bytes.size(), " stages fits: at best stage ", worst,
                                   " holds ", cut.bytes[worst], " bytes of ", problem.limit_bytes[worst]))
      .detail(concat("it has positions ", cut.begins[worst], " to ", end - 1, ", and ",
                     problem.in_flight[worst], " micro-batches in flight"))
      .hint(concat("would fit: ", cut.bytes[worst] - problem.limit_bytes[worst],
                   " bytes more for each stage, more stages, or fewer micro-batches in flight"));
}

}  // namespace moai::plan
