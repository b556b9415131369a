#pragma once

#include <cstddef>
#include <vector>

namespace moai::plan {

// Maximises a concave function of prices >= 0 that is known by its cuts: a proximal bundle method
// (Kiwiel 1990). Call `point`, evaluate there, `add` what was found, again.
//
// A step takes cuts x prices x some hundred operations; at most `kMostCuts` cuts are kept.
class Bundle {
 public:
  // The first step aims at raising the value by `rise`.
  Bundle(size_t prices, double rise);

  // Where to evaluate next.
  std::vector<double> point();
  // What the cuts promise at most at the last point, above the best value.
  double promised() const { return promised_; }

  // At the last point the function is at least `value`; everywhere it is at most
  // `constant + slope * prices`.
  void add(double value, double constant, std::vector<double> slope);

  double best_value() const { return best_value_; }
  const std::vector<double>& best() const { return best_; }

 private:
  static constexpr size_t kMostCuts = 60;

  struct Cut {
    double constant;
    std::vector<double> slope;
    double weight;  // in the combination that made the last point
    double at(const std::vector<double>& prices) const;
  };

  void move(std::vector<double>* prices) const;

  std::vector<Cut> cuts_;
  std::vector<double> best_;
  std::vector<double> last_;
  double best_value_;
  double promised_;
  double rise_;
  double step_ = 0;
};

}  // namespace moai::plan
