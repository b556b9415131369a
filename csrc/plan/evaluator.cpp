#include "plan/evaluator.h"

#include <algorithm>
#include <limits>

#include "ir/bytes_text.h"
#include "ir/error.h"
#include "plan/live_bytes.h"
#include "plan/pipeline_bound.h"
#include "plan/plan_file.h"
#include "plan/random_plan.h"

namespace moai::plan {

namespace {

// What a plan does, in words.
std::string words(const Candidate& candidate, double state_bytes) {
  const OuterChoice& outer = candidate.outer;
  std::string text;
  const auto add = [&](const std::string& word, const char* between) {
    text += (text.empty() ? "" : between) + word;
  };
  if (outer.stages > 1) {
    add(concat("pipeline ", outer.stages, " (", order_name(outer.order),
               outer.chunks > 1 ? concat(", ", outer.chunks, " chunks") : "", ")"),
        " x ");
  }
  for (const auto& axis : candidate.axes) add(concat(axis.name, " ", axis.size), " x ");
  if (text.empty()) text = "one device";
  const double local = candidate.assignment.state_bytes * outer.stages;
  const double parts = local > 0 ? state_bytes / local : 1;
  if (parts >= 1.5) add(concat("weights and states in ", static_cast<int64_t>(parts + 0.5), " parts"), "; ");
  if (outer.micro_batches > 1) add(concat(outer.micro_batches, " micro-batches"), "; ");
  if (outer.capacity > 0) add(concat("rows sent to experts (capacity ", outer.capacity, ")"), "; ");
  if (outer.gradients == Gradients::kAtOnce) add("gradients sharded as they are made", "; ");
  if (outer.recompute != Recompute::kNone) add(concat("recompute ", recompute_name(outer.recompute)), "; ");
  if (outer.offload != Offload::kNone) add(concat(offload_name(outer.offload), " on the host"), "; ");
  return text;
}

}  // namespace

Evaluator::Evaluator(const ir::Graph& graph, const Cluster& cluster, Pins pins)
    : cluster_(cluster.evened()),
      pins_(settled(std::move(pins))),
      memory_(static_cast<double>(cluster_.smallest_memory())) {
  base_ = std::make_shared<const Step>(make_step(graph));
  steps_[Rewriting{}] = base_;
  for (const auto input : base().graph.inputs())
    state_bytes_ += static_cast<double>(base().graph.type(input).bytes());
}

const std::shared_ptr<const Step>& Evaluator::step(const OuterChoice& outer) {
  auto& made = steps_[outer.rewriting()];
  if (made) return made;
  const Rewriting rewriting = outer.rewriting();
  made =
      std::make_shared<const Step>(rewriting.only_sends() ? send_rows(base(), outer.capacity)
                                                          : make_step(*step_with(outer.capacity), rewriting));
  return made;
}

const std::shared_ptr<const Step>& Evaluator::step_with(double capacity) {
  OuterChoice plain;
  plain.capacity = capacity;
  return step(plain);
}

const std::shared_ptr<const Frame>& Evaluator::turn(const OuterChoice& outer) {
  auto& made = turns_[{outer.rewriting(), outer.micro_batches}];
  if (!made) {
    const Step& whole = *step(outer);
    made = std::make_shared<const Frame>(frame_of_turn(whole.frame, whole.time, outer.micro_batches));
  }
  return made;
}

Pair Evaluator::pair_of(const OuterChoice& outer) {
  Pair pair;
  pair.stages = outer.stages;
  pair.sizes = outer.mesh;
  pair.splits = outer.splits;
  pair.capacity = outer.capacity;
  return pair;
}

Terms Evaluator::terms_of(const Pair& pair, int32_t turns) const {
  Terms terms;
  terms.steps = pins_.solver_steps;
  terms.branches = pins_.solver_branches;
  if (pins_.solver_steps < Terms{}.steps) terms.halvings = 0;  // a step waits: proofs can do without
  terms.memory_bytes = memory_;
  terms.stages = pair.stages;
  terms.turns = turns;
  terms.zero = pins_.zero.value_or(-1);
  for (const auto& axis : pins_.axes) terms.copies.push_back(axis.copies);
  terms.uses_axes = !pins_.axes.empty() && !pins_.saved;
  return terms;
}

// The numbers of turns worth a try, ascending.
std::vector<int32_t> Evaluator::turns_of(const Pair& pair) const {
  if (pins_.micro_batches) {
    const int32_t turns = *pins_.micro_batches;
    if (turns > 1 && !has_turns()) {
      throw Error(Phase::kPlan, concat("micro=", turns, " cannot be: ", base().time.obstacle))
          .hint("would work: micro=1");
    }
    if (turns < 1 || base().time.size % turns != 0) {
      throw Error(Phase::kPlan, concat("micro=", turns, " does not divide a batch of ", base().time.size))
          .hint("would work: a divisor of the batch");
    }
    check_turns(pins_, base(), turns);
    return {turns};
  }
  check_turns(pins_, base(), 1);
  if (!has_turns()) return {1};
  std::vector<int32_t> all = turns_worth_a_try(base().time.size);
  all.erase(std::remove_if(all.begin(), all.end(),
                           [this](int32_t turns) { return !leaves_parts(pins_, base(), turns); }),
            all.end());
  if (pair.stages > 1) {
    const auto enough = std::lower_bound(all.begin(), all.end(), pair.stages);
    all.erase(all.begin(), enough == all.end() ? enough - 1 : enough);
  }
  return all;
}

double Evaluator::computing_bound(const Pair& pair) {
  double bound = std::numeric_limits<double>::infinity();
  for (const auto turns : turns_of(pair)) bound = std::min(bound, computing_bound(pair, turns));
  return bound;
}

double Evaluator::computing_bound(const Pair& pair, int32_t turns) {
  const auto it = computing_.emplace(std::make_pair(pair.stages, turns), 0.0);
  if (it.second) {
    OuterChoice plain;
    plain.micro_batches = turns;
    it.first->second = least_pipeline_seconds(base(), *turn(plain), cluster_, turns, pair.stages,
                                              cluster_.device_count() / pair.stages, kMostChunks);
  }
  return it.first->second;
}

Assignment Evaluator::unlimited(const Pair& pair, Gradients gradients, double proof_gap, double give_up) {
  Terms terms = terms_of(pair, 1);
  terms.memory_bytes = 1e30;
  terms.rounds = 1;
  terms.proof_gap = proof_gap;
  terms.give_up = give_up;
  if (pair.stages > 1) {  // its bound is another
    terms.proof_gap = kRoughGap;
    terms.steps = kRoughSteps;
    terms.branches = 0;
  }
  OuterChoice outer;
  outer.gradients = gradients;
  outer.capacity = pair.capacity;
  const Step& made = *step(outer);
  return assign(made, made.frame, mesh_of(pair), terms);
}

Candidate Evaluator::candidate_of(const Pair& pair, int32_t turns, const Rewriting& rewriting) const {
  Candidate out;
  out.outer.stages = pair.stages;
  out.outer.mesh = pair.sizes;
  out.outer.splits = pair.splits;
  out.outer.capacity = pair.capacity;
  out.outer.micro_batches = turns;
  out.outer.recompute = rewriting.recompute;
  out.outer.offload = rewriting.offload;
  out.outer.gradients = rewriting.gradients;
  if (pins_.saved) {
    out.outer.gradients = pins_.saved->outer.gradients;
  } else if (pins_.zero.value_or(0) >= 2) {
    out.outer.gradients = Gradients::kAtOnce;
  }
  out.outer.chunks = pins_.chunks.value_or(1);
  out.outer.order = pins_.order.value_or(Order::k1F1B);
  return out;
}

void Evaluator::solve(Candidate* out, Terms terms) {
  const OuterChoice& outer = out->outer;
  const Pair pair = pair_of(outer);
  terms.idle_turns = static_cast<double>(outer.stages - 1) / outer.chunks;
  if (pins_.saved) pin_saved(*pins_.saved, *step(outer), &terms);
  const Mesh mesh = mesh_of(pair);
  const Frame& frame = *turn(outer);
  if (pins_.random) return draw(out, mesh, terms);
  // A stage with more than its share is only seen when stages are cut: then all get less. What bounds the
  // first question bounds the answers to the others, and not the other way round.
  double bound = std::numeric_limits<double>::infinity();
  for (int32_t again = 0; again < 3; ++again) {
    out->assignment = assign(*step(outer), frame, mesh, terms);
    bound = out->assignment.lower_bound = std::min(bound, out->assignment.lower_bound);
    out->fits = out->assignment.fits && out->assignment.lower_bound < terms.give_up;
    out->excess = out->assignment.excess;
    out->peak_bytes = out->assignment.bytes;
    if (!out->fits) return;
    simulate(out, mesh, terms);
    if (out->bytes.host > cluster_.device(0).host_memory_bytes) {
      out->fits = false;
      out->excess = concat("memory of the host: ", bytes_text(out->bytes.host), " for each device, limit ",
                           bytes_text(static_cast<double>(cluster_.device(0).host_memory_bytes)));
      return;
    }
    if (!out->excess.empty() || out->peak_bytes <= memory_ * (1 + 1e-9)) return;
    out->fits = false;
    out->excess =
        concat("memory of the fullest stage: ", bytes_text(out->peak_bytes), ", limit ", bytes_text(memory_));
    terms.memory_bytes *= 0.98 * memory_ / out->peak_bytes;
  }
}

void Evaluator::draw(Candidate* out, const Mesh& mesh, const Terms& terms) {
  SplitCounts counts;
  out->assignment = random_assignment(base().graph, base().frame, mesh, *pins_.random, &counts);
  const std::vector<double> live = live_bytes(base(), base().frame, mesh, terms, out->assignment);
  const auto most = std::max_element(live.begin(), live.end());
  out->assignment.bytes = *most;
  out->assignment.scratch_bytes = out->assignment.nodes[most - live.begin()].scratch_bytes;
  out->fits = out->assignment.fits = out->assignment.bytes <= memory_;
  simulate(out, mesh, terms);
  out->assignment.seconds = out->spent.compute + out->spent.communicate;
  out->peak_bytes = out->assignment.bytes;
}

void Evaluator::simulate(Candidate* out, const Mesh& mesh, const Terms& terms) {
  const OuterChoice& outer = out->outer;
  const Step& made = *step(outer);
  const Frame& frame = *turn(outer);
  if (outer.stages > 1) {
    const auto line = line_of(*out);
    simulate_pipeline(out, line);
    if (pins_.order || !out->excess.empty()) return;
    Candidate other = *out;
    other.outer.order = Order::kZeroBubble;
    simulate_pipeline(&other, line);
    if (other.peak_bytes <= memory_ && other.step_seconds < out->step_seconds) *out = std::move(other);
    return;
  }
  const Whole all = whole(made, frame, mesh, terms, out->assignment, pins_.gathers);
  out->spent = all.spent;
  out->step_seconds = all.spent.seconds;
  out->bytes = all.bytes;
  out->peak_bytes = all.bytes.total();
}

void Evaluator::simulate_pipeline(Candidate* out, const std::vector<Stretch>& line) const {
  const PipelineCost cost = pipeline_cost(line, out->outer, cluster_, memory_);
  out->stage_begins = cost.stage_begins;
  out->schedule = cost.schedule;
  out->step_seconds = cost.spent.seconds;
  out->spent = cost.spent;
  out->bubble_seconds = cost.bubble_seconds;
  out->handed = cost.handed;
  out->peak_bytes = cost.peak_bytes;
  out->bytes = cost.bytes;
  if (cost.excess.empty()) return;
  out->fits = false;
  out->excess = cost.excess;
}

std::vector<Stretch> Evaluator::line_of(const Candidate& candidate) {
  const OuterChoice& outer = candidate.outer;
  return stretches(*step(outer), *turn(outer), mesh_of(pair_of(outer)), candidate.assignment, pins_.sends,
                   pins_.gathers);
}

void Evaluator::describe(Candidate* candidate) {
  const OuterChoice& outer = candidate->outer;
  candidate->axes = axis_uses(*step(outer), mesh_of(pair_of(outer)), candidate->assignment);
  candidate->layout = words(*candidate, state_bytes_);
}

}  // namespace moai::plan
