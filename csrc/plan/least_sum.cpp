#include "plan/least_sum.h"

#include <algorithm>
#include <deque>
#include <limits>
#include <set>
#include <utility>

namespace moai::plan {

namespace {

// A pipeline's bound is what computing alone takes, and no proof raises it: of the best plan's sum, how much
// a proof must be able to add below that.
constexpr double kWorthProving = 0.1;

// All plans of a pair that bring gradients where they go late, or at once. The two are different graphs, and
// neither bounds the other: where a late one goes to two readers, each conversion counts.
struct Question {
  const Pair* pair;
  Gradients gradients;
  double bound;
  bool is_proven;
};

class LeastSum {
 public:
  LeastSum(Evaluator& plans, const std::vector<Pair>& pairs) : plans_(plans), pins_(plans.pins()) {
    const bool is_late = pins_.zero.value_or(0) < 2;
    for (const auto& pair : pairs) {
      if (is_late) questions_.push_back({&pair, Gradients::kLate, pair.bound, pair.free.exact});
      ask(pair, Gradients::kAtOnce);
    }
    if (!pins_.axes.empty() || pins_.saved) return;
    std::set<std::pair<int32_t, double>> seen;
    for (const auto& pair : pairs) {
      if (seen.emplace(pair.stages, pair.capacity).second) add_three_axes(pair);
    }
    for (const auto& pair : three_axes_) {
      if (is_late) ask(pair, Gradients::kLate);
      ask(pair, Gradients::kAtOnce);
    }
  }

  double up_to(double sum) {
    double pipelines = std::numeric_limits<double>::infinity();
    for (const auto& question : questions_) {
      if (question.pair->stages > 1) pipelines = std::min(pipelines, question.bound);
    }
    while (true) {
      Question& lowest =
          *std::min_element(questions_.begin(), questions_.end(),
                            [](const Question& a, const Question& b) { return a.bound < b.bound; });
      const bool is_enough =
          lowest.bound >= sum * (1 - Terms{}.enough_gap) || pipelines - lowest.bound <= kWorthProving * sum;
      if (is_enough || lowest.is_proven || lowest.pair->stages > 1) return lowest.bound;
      const Assignment free = plans_.unlimited(*lowest.pair, lowest.gradients, 0, sum);
      lowest.bound = std::max(lowest.bound, free.lower_bound);
      lowest.is_proven = true;
    }
  }

 private:
  void ask(const Pair& pair, Gradients gradients) {
    if (gradients == Gradients::kAtOnce && pins_.zero.value_or(2) < 2) return;
    questions_.push_back({&pair, gradients, plans_.computing_bound(pair), false});
  }

  void add_three_axes(const Pair& like) {
    for (const auto& pair : three_axes(plans_.cluster(), like.stages))
      three_axes_.push_back(like.capacity > 0 ? sending_rows(pair, like.capacity) : pair);
  }

  Evaluator& plans_;
  const Pins& pins_;
  std::deque<Pair> three_axes_;
  std::vector<Question> questions_;
};

}  // namespace

double least_sum(Evaluator& plans, const std::vector<Pair>& pairs, double sum) {
  if (plans.pins().random || sum == std::numeric_limits<double>::infinity()) {
    double least = pairs.front().bound;
    for (const auto& pair : pairs) least = std::min(least, pair.bound);
    return least;
  }
  return LeastSum(plans, pairs).up_to(sum);
}

}  // namespace moai::plan
