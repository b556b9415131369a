#pragma once

#include <cstdint>
#include <vector>

namespace moai::plan {

// A line of positions (layers, or finer) to be cut into stages, and what each stage may hold.
//
// The stage of positions [i, j) takes the sum of their seconds and the seconds of its two cuts, and holds the
// sum of their state bytes and `in_flight` times that of their activation bytes.
struct StageProblem {
  std::vector<double> seconds;           // by position: of a micro-batch, forward and backward
  std::vector<double> state_bytes;       // by position: weights, gradients, optimizer states
  std::vector<double> activation_bytes;  // by position: of one micro-batch
  // By position: what a cut before it adds to each of the stages it parts; the first is not used. Zero where
  // messages go unnoticed beside work.
  std::vector<double> cut_seconds;
  std::vector<double> limit_bytes;  // by stage; as many stages as limits
  std::vector<int32_t> in_flight;   // by stage
};

// Micro-batches that each of `stages` holds at most under 1F1B: min(micro_batches, stages - stage).
std::vector<int32_t> in_flight_1f1b(int32_t stages, int32_t micro_batches);

struct StageCut {
  bool fits = false;
  std::vector<int32_t> begins;  // by stage: its first position
  std::vector<double> seconds;  // by stage
  std::vector<double> bytes;    // by stage
};

// Cuts the line into stages of at least one position each so that the slowest takes the least; of such cuts
// the one with least cut seconds in all, then the one whose first cut is earliest, then the second ...
//
// Exact (up to the rounding of sums), by dynamic programming over ends of stages (Bokhari 1988; Pinar and
// Aykanat 2004 compare), which leaves out starts that cannot be best. About positions^2 x log(stages) steps
// where positions are alike, positions^2 x stages at worst. Where nothing fits, `fits` is false and the cut
// is the one whose largest excess of a limit is least; what is best then says the rest. Deterministic. Throws
// Error(Phase::kPlan) on vectors of unequal length, negative numbers, and more stages than positions.
StageCut cut_stages(const StageProblem& problem);

// Throws Error(Phase::kPlan) that names the stage that exceeds its limit most, with the bytes, if one does.
void require_fits(const StageProblem& problem, const StageCut& cut);

}  // namespace moai::plan
