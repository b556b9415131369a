#include "engine/measurements.h"

#include <algorithm>
#include <cmath>

namespace moai::engine {

namespace {

constexpr size_t kKeptRuns = 32;
// The first runs bring inputs from the host and touch their memory for the first time.
constexpr size_t kWarmUp = 3;
constexpr size_t kEnough = 9;
constexpr double kTolerated = 0.2;
// What is off by more was not measured well.
constexpr double kMostOff = 1e3;

double median_of(const std::vector<Parts>& runs, double (*part)(const Parts&)) {
  std::vector<double> all;
  for (size_t i = runs.size() - kEnough; i < runs.size(); ++i) all.push_back(part(runs[i]));
  std::nth_element(all.begin(), all.begin() + kEnough / 2, all.end());
  return all[kEnough / 2];
}

double ratio(double measured, double predicted) {
  return predicted > 0 ? std::clamp(measured / predicted, 1 / kMostOff, kMostOff) : 1;
}

}  // namespace

void Measurements::add(const std::string& layout, const std::shared_ptr<const Prediction>& predicted,
                       const Parts& run) {
  const std::lock_guard<std::mutex> guard(lock_);
  if (explained_.predicted != predicted) {
    explained_ = {layout, predicted, {}};
    seen_ = 0;
  }
  ++seen_;
  auto& all = explained_.runs;
  if (all.size() == kKeptRuns) all.erase(all.begin());
  all.push_back(run);
}

std::optional<Correction> Measurements::correction(const std::shared_ptr<const Prediction>& of) {
  const std::lock_guard<std::mutex> guard(lock_);
  if (of == nullptr || of != explained_.predicted || of->is_corrected || seen_ != kWarmUp + kEnough)
    return std::nullopt;
  ++seen_;  // not asked for this one again
  const auto& runs = explained_.runs;
  const double took = median_of(runs, [](const Parts& run) { return run.total(); });
  if (std::abs(took / of->step_seconds - 1) <= kTolerated) return std::nullopt;
  return Correction{
      ratio(median_of(runs, [](const Parts& run) { return run.compute; }), of->compute_seconds),
      ratio(median_of(runs, [](const Parts& run) { return run.communicate; }), of->communicate_seconds)};
}

Measurements::Explained Measurements::explained() const {
  const std::lock_guard<std::mutex> guard(lock_);
  return explained_;
}

}  // namespace moai::engine
