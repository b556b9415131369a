#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "plan/candidate.h"
#include "plan/pins.h"
#include "plan/pipeline_cost.h"

namespace moai::plan {

// While pairs are compared; the best is then searched on.
constexpr double kRoughGap = 0.02;
constexpr double kRoughSteps = 5e8;

inline constexpr int32_t kMostChunks = 4;  // virtual stages on a device, of a plan that pins none

// One plan of a step on a cluster, made and costed: what the planner tries, and keeps or drops. Steps with
// their recomputation, and frames of their turns, are made once.
class Evaluator {
 public:
  // Throws Error(Phase::kPlan) on a rule that contradicts its op.
  Evaluator(const ir::Graph& graph, const Cluster& cluster, Pins pins);

  const Cluster& cluster() const { return cluster_; }  // its devices equal
  const Pins& pins() const { return pins_; }           // settled
  double memory() const { return memory_; }            // of the smallest device, bytes
  // Whether the devices can reach their hosts' memory, as far as the cluster says.
  bool has_host() const { return cluster_.device(0).host_bytes_per_s > 0; }

  const Step& base() const { return *base_; }  // as it was recorded
  // The same with its rows as a pair has them.
  const Step& recorded(const Pair& pair) { return *step_with(pair.capacity); }
  // As an outer choice has it, and the frame of one of its turns.
  const std::shared_ptr<const Step>& step(const OuterChoice& outer);
  const std::shared_ptr<const Frame>& turn(const OuterChoice& outer);

  bool has_turns() const { return base().time.obstacle.empty(); }
  // The numbers of turns worth a try, ascending: those that leave the pinned axes enough to split. Throws
  // Error(Phase::kPlan) where a pinned one is impossible, or none leaves enough.
  std::vector<int32_t> turns_of(const Pair& pair) const;
  Mesh mesh_of(const Pair& pair) const { return Mesh::make(cluster_, pair.sizes, pair.splits); }
  static Pair pair_of(const OuterChoice& outer);
  Terms terms_of(const Pair& pair, int32_t turns) const;

  // What computing alone takes a pipeline at least, in seconds: with so many turns, or whatever number.
  double computing_bound(const Pair& pair, int32_t turns);
  double computing_bound(const Pair& pair);

  // The first assignment of a pair: it knows no limit on memory, goes through the batch at once and computes
  // nothing twice. Its bound, proven to `proof_gap`, is one on all plans of the pair that have gradients so;
  // above `give_up` it need not be proven further.
  Assignment unlimited(const Pair& pair, Gradients gradients, double proof_gap, double give_up);

  // A plan of a pair, of which nothing is known yet.
  Candidate candidate_of(const Pair& pair, int32_t turns, const Rewriting& rewriting) const;
  // Assigns, and where that fits simulates.
  void solve(Candidate* out, Terms terms);
  // The step's time and memory by an assignment that is there.
  void simulate(Candidate* out, const Mesh& mesh, const Terms& terms);
  // The same for a pipeline whose stretches are known.
  void simulate_pipeline(Candidate* out, const std::vector<Stretch>& line) const;
  std::vector<Stretch> line_of(const Candidate& candidate);
  // Says how a plan uses its axes, and in words.
  void describe(Candidate* candidate);

 private:
  const std::shared_ptr<const Step>& step_with(double capacity);
  void draw(Candidate* out, const Mesh& mesh, const Terms& terms);

  Cluster cluster_;
  Pins pins_;
  double memory_;
  double state_bytes_ = 0;  // of all inputs, whole

  std::shared_ptr<const Step> base_;
  std::map<Rewriting, std::shared_ptr<const Step>> steps_;
  std::map<std::pair<Rewriting, int32_t>, std::shared_ptr<const Frame>> turns_;  // by turns too
  std::map<std::pair<int32_t, int32_t>, double> computing_;                      // by stages and turns
};

}  // namespace moai::plan
