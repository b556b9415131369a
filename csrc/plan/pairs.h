#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "plan/assign.h"
#include "plan/candidate.h"

namespace moai::plan {

// What became of a plan that was tried.
enum class Verdict {
  kFits,
  kTooLarge,
  kNoUse,  // it could be no better than the best, whether it fits or not
};

// A number of stages and the mesh of each: what the planner tries with several numbers of micro-batches and
// ways to recompute.
struct Pair {
  int32_t stages = 1;
  std::vector<int32_t> sizes;  // of the mesh's axes, outermost first
  std::vector<uint8_t> splits;
  double capacity = 0;  // see Rewriting

  bool is_estimated = false;
  double estimate = 0;  // what all plans add up to at least, by the options that were looked at
  double bound = 0;     // the same by all options
  Assignment free;      // of one stage: the whole batch at once, however much memory it takes
  // By turns, what is recomputed and what lies on the host.
  std::map<std::tuple<int32_t, Recompute, Offload>, Verdict> tried;
  double best_seconds = std::numeric_limits<double>::infinity();  // simulated, of those that fitted
  int32_t best_turns = 0;                                         // theirs
  bool is_settled = false;                                        // nothing else of the pair can be better

  // Whether every axis may split whatever is there.
  bool has_all() const;
  bool is_of(const OuterChoice& outer) const {
    return stages == outer.stages && sizes == outer.mesh && splits == outer.splits &&
           capacity == outer.capacity;
  }
};

// Every mesh of one and of two axes for a number of stages that divides the devices; an inner axis divides a
// host. In a pipeline, and `by_role`, the outer of two axes splits the batch and the inner one what is in a
// sample; `by_role` a single one either.
std::vector<Pair> pairs_of(const Cluster& cluster, int32_t stages, bool by_role = false);

// The same pair with rows that go to experts, which lie within what splits the batch.
Pair sending_rows(Pair pair, double capacity);

// Meshes of three axes: data; sequence or experts; sequence or features. The inner two are powers of two
// that divide a host. None of a few devices, where the third gains nothing.
std::vector<Pair> three_axes(const Cluster& cluster, int32_t stages);

// Numbers of micro-batches worth a try, ascending: divisors of the batch, each half as much again as the one
// before at least.
std::vector<int32_t> turns_worth_a_try(int64_t batch);

}  // namespace moai::plan
