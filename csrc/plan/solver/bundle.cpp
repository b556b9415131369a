#include "plan/solver/bundle.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>

namespace moai::plan {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int kExchanges = 400;  // of weight between two cuts, per step
constexpr int kHalvings = 50;
constexpr double kSerious = 0.1;  // share of what was promised that makes a point the new centre

}  // namespace

Bundle::Bundle(size_t prices, double rise)
    : best_(prices, 0.0), last_(prices, 0.0), best_value_(-kInfinity), promised_(kInfinity), rise_(rise) {}

double Bundle::Cut::at(const std::vector<double>& prices) const {
  double value = constant;
  for (size_t k = 0; k < prices.size(); ++k) {
    const double term = slope[k] * prices[k];
    value += term;
  }
  return value;
}

// The best prices for the present weights: from the centre along the weighted slopes.
void Bundle::move(std::vector<double>* prices) const {
  for (size_t k = 0; k < prices->size(); ++k) {
    double slope = 0;
    for (const Cut& cut : cuts_) {
      const double term = cut.weight * cut.slope[k];
      slope += term;
    }
    const double change = step_ * slope;
    (*prices)[k] = std::max(0.0, best_[k] + change);
  }
}

// The highest point of the lowest cut, less the squared distance from the centre, found in the dual:
// weight moves from the cut that is highest at the weights' point to the one that is lowest there.
std::vector<double> Bundle::point() {
  if (cuts_.empty()) return last_;
  move(&last_);
  for (int n = 0; n < kExchanges; ++n) {
    Cut* low = nullptr;
    Cut* high = nullptr;
    double least = kInfinity;
    double most = -kInfinity;
    for (Cut& cut : cuts_) {
      const double value = cut.at(last_);
      if (value < least) {
        least = value;
        low = &cut;
      }
      if (cut.weight > 0 && value > most) {
        most = value;
        high = &cut;
      }
    }
    if (low == high || most - least <= 1e-12 * (std::fabs(most) + std::fabs(least))) break;
    // As much as makes the two equal, or all.
    const double of_low = low->weight;
    const double of_high = high->weight;
    const auto shift = [&](double weight) {
      low->weight = of_low + weight;
      high->weight = of_high - weight;
      move(&last_);
      return low->at(last_) < high->at(last_);
    };
    double enough = 0;
    if (!shift(of_high)) {
      double over = of_high;
      for (int h = 0; h < kHalvings; ++h) {
        const double middle = 0.5 * (enough + over);
        (shift(middle) ? enough : over) = middle;
      }
      shift(enough);
      if (enough == 0) break;
    } else {
      high->weight = 0;
    }
  }
  double lowest = kInfinity;
  for (const Cut& cut : cuts_) lowest = std::min(lowest, cut.at(last_));
  promised_ = lowest - best_value_;
  return last_;
}

void Bundle::add(double value, double constant, std::vector<double> slope) {
  double square = 0;
  for (const double s : slope) square += s * s;
  const bool is_first = cuts_.empty();
  if (is_first) {
    step_ = square > 0 ? rise_ / square : 1;
  } else if (value >= best_value_ + kSerious * promised_) {
    if (value >= best_value_ + 0.5 * promised_) step_ *= value >= best_value_ + 0.9 * promised_ ? 8 : 2;
  } else {
    step_ *= 0.8;
  }
  // The centre is always the best point: then no step promises less than what is known.
  if (is_first || value > best_value_) best_ = last_;
  best_value_ = std::max(best_value_, value);

  if (cuts_.size() == kMostCuts) {  // the one that counts least gives way, the oldest of them
    auto least = cuts_.begin();
    for (auto cut = cuts_.begin(); cut != cuts_.end(); ++cut) {
      if (cut->weight < least->weight) least = cut;
    }
    const double weight = least->weight;
    cuts_.erase(least);
    cuts_.push_back({constant, std::move(slope), weight});
    return;
  }
  cuts_.push_back({constant, std::move(slope), is_first ? 1.0 : 0.0});
}

}  // namespace moai::plan
