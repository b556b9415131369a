#include "plan/planner.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include "ir/error.h"
#include "plan/evaluator.h"
#include "plan/hints.h"
#include "plan/least_sum.h"
#include "plan/pairs.h"
#include "plan/pairs_to_try.h"

namespace moai::plan {

namespace {

// Note [How plans are searched]
// What is chosen outside of an assignment (stages, a mesh for each, micro-batches, recomputation) is
// enumerated. Of every pair of stages and mesh a first assignment knows no limit on memory, goes through the
// batch at once and computes nothing twice: its bound is an estimate of all plans of that pair, and where no
// option was left out a bound on them, since limits, turns and recomputation only add. With one stage it is
// often a plan already: where its memory is there, only its proof can be bettered.
//
// Where rows of experts can be sent, each pair is there twice, once with rows that are.
//
// Pairs are tried from the lowest estimate up, with the least that a pipeline idles and what more turns take
// to start their ops; pipelines have no estimate of their own before computing alone would not rule them out.
// Those whose estimate is not below the best step found are left out, for pipelines by a margin. First each
// pair is probed at one number of turns; then the best few go on, to fewer and to more turns as long as that
// helps, and recompute more where memory binds (the best so far at once where it computes all again, since
// what it can do rules others out). Where it does for the best of all, that one is tried with activations on
// the host, to fewer turns as long as that helps; where nothing fits, so are those that come nearest.
//
// One stage: meshes of one and two axes with all options. Pipelines: the outer axis splits the batch, the
// inner one what is in a sample, so that many can be compared; their bound is what computing alone takes at
// least. Three axes (data; sequence or experts; sequence or features) are tried last, for the stages of the
// best plan.
//
// The bound of the search is the least over all of these, tried or not: see plan/least_sum.h.

using Clock = std::chrono::steady_clock;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// What adds up to so many times the best step is not searched on: overlap does not make up for it.
constexpr double kHopeless = 1.5;
constexpr size_t kSearchedOn = 4;
// What adds up to so many times what the best plan does is not better with an axis more.
constexpr double kHopelessAxis = 1.2;
constexpr double kRoughProof = 0.005;
constexpr int32_t kRoughRounds = 10;
constexpr int32_t kMostTried = 100;  // a few seconds on a large cluster
constexpr size_t kFinalists = 6;
// What other orders and more chunks may yet take off a pipeline's step.
constexpr double kWorthOrder = 1.03;
// Of the best step: slower pipelines are not worth more chunks.
constexpr double kWorthChunks = 1.25;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

class Planner {
 public:
  Planner(const ir::Graph& graph, const Cluster& cluster, const Pins& pins)
      : start_(Clock::now()), plans_(graph, cluster, pins), pins_(plans_.pins()), cluster_(plans_.cluster()) {
    check_hints(base().graph, base().frame);
    if (pins_.offload.value_or(Offload::kNone) != Offload::kNone && !plans_.has_host()) {
      throw Error(Phase::kConfig, concat("offload=", offload_name(*pins_.offload), " cannot be: of ",
                                         cluster_.name, " no link to the host is known"))
          .hint("would work: `host_bytes_per_s` and `host_memory_bytes` of its devices (docs/clusters.md)");
    }
    plan_.kept_whole = kept_whole(base().graph, base().frame);
    plan_.no_turns = base().time.obstacle;
    for (size_t n = 0; n < base().frame.rules.size(); ++n) plan_.flops += base().frame.rules[n].flops;
    plan_.batch = base().time.size;
    plan_.rules_seconds = seconds_since(start_);
  }

  StepPlan run() {
    auto start = Clock::now();
    find_pairs();
    plan_.bound_seconds = seconds_since(start);
    start = Clock::now();
    probe_all();
    std::stable_sort(pairs_.begin(), pairs_.end(),
                     [](const Pair& a, const Pair& b) { return a.best_seconds < b.best_seconds; });
    for (size_t i = 0; i < std::min(kSearchedOn, pairs_.size()); ++i) search_on(&pairs_[i]);
    try_offload();
    try_gradients_at_once();
    try_three_axes();
    finish();
    plan_.search_seconds = seconds_since(start);
    start = Clock::now();
    prove();
    plan_.bound_seconds += seconds_since(start);
    return std::move(plan_);
  }

 private:
  const Step& base() const { return plans_.base(); }

  void find_pairs() {
    pairs_ = pairs_to_try(plans_);
    plans_.turns_of(pairs_.front());  // pins that cannot be are told before anything is solved
    for (auto& pair : pairs_) {
      if (pair.stages == 1 || !pins_.axes.empty()) {
        estimate(&pair);
      } else {
        pair.bound = pair.estimate = plans_.computing_bound(pair);
      }
    }
  }

  // The pair's first assignment; see Note [How plans are searched]. Roughly: most pairs are ruled out by it,
  // and the others are proven at the end.
  void estimate(Pair* pair) {
    const Mesh mesh = plans_.mesh_of(*pair);
    const Step& step = plans_.recorded(*pair);
    Assignment free = plans_.unlimited(*pair, Gradients::kLate, kRoughGap, kInfinity);
    pair->is_estimated = true;
    pair->estimate = free.lower_bound;
    pair->bound = pair->stages == 1 ? free.lower_bound : plans_.computing_bound(*pair);
    if (pair->stages > 1 && (pair->has_all() || !pins_.axes.empty()))
      pair->bound = std::max(pair->bound, free.lower_bound);
    const bool is_asked = pair->capacity == 0 || pins_.capacity.has_value();
    if (!is_asked && !(free.fits && uses_axes(pins_, axis_uses(step, mesh, free)))) {
      pair->estimate = kInfinity;  // rows cannot be sent there; nobody said that they must
      return;
    }
    if (!free.fits) {
      throw Error(Phase::kPlan,
                  concat("nothing splits the step over ", mesh.str(), " as is pinned: ", free.excess))
          .hint("would work: other axes, or none pinned");
    }
    check_axes(pins_, step, axis_uses(step, mesh, free));
    if (pair->stages == 1) pair->free = std::move(free);
  }

  // Of a pair's plans: with the least that a pipeline idles (half of its 1F1B bubble, as weights' gradients
  // can fill the rest), and with what more turns take to start their ops.
  double least_seconds(const Pair& pair, int32_t turns) {
    if (!pair.is_estimated) return plans_.computing_bound(pair, turns);
    const double starts =
        (turns - 1) * plans_.recorded(pair).loop_ops * cluster_.device(0).op_overhead_s / pair.stages;
    return (pair.estimate + starts) * (1 + 0.5 * (pair.stages - 1) / turns);
  }

  // Where a pair stands in line: with all of that bubble, since the first order that is simulated has it.
  double rank(const Pair& pair) {
    double least = kInfinity;
    for (const auto turns : plans_.turns_of(pair)) {
      const double half = 0.5 * (pair.stages - 1) / turns;
      least = std::min(least, least_seconds(pair, turns) * (1 + half / (1 + half)));
    }
    return least;
  }

  bool may_be_best(const Pair& pair) {
    const auto all = plans_.turns_of(pair);
    return std::any_of(all.begin(), all.end(), [&](int32_t turns) { return may_be_best(pair, turns); });
  }

  bool may_be_best(const Pair& pair, int32_t turns) {
    const double order = pair.stages > 1 ? kWorthOrder : 1;
    return least_seconds(pair, turns) < order * best_seconds_;
  }

  // Tries one plan of a pair, unless that was done, is pinned otherwise, or can be no better than the best.
  Verdict attempt(Pair* pair, int32_t turns, Recompute policy, Offload offload = Offload::kNone) {
    if (pins_.recompute) policy = *pins_.recompute;
    if (pins_.offload) offload = *pins_.offload;
    const auto known = pair->tried.find({turns, policy, offload});
    if (known != pair->tried.end()) return known->second;
    const bool is_free = pair->stages == 1 && turns == 1 && policy == Recompute::kNone &&
                         offload == Offload::kNone && is_plan(pair->free);
    // What is a plan already costs next to nothing to compare, and may overlap better than it adds up.
    if (!is_free && (!may_be_best(*pair, turns) || plan_.tried >= kMostTried)) return Verdict::kNoUse;
    const double give_up = kHopeless * best_seconds_;
    Candidate candidate = is_free ? free_one(*pair) : try_one(*pair, turns, {policy, offload}, give_up);
    const double bound = candidate.assignment.lower_bound;  // infinite where nothing fits
    const bool is_of_no_use = bound >= give_up && bound < kInfinity;
    const Verdict verdict = candidate.fits ? Verdict::kFits
                            : is_of_no_use ? Verdict::kNoUse
                                           : Verdict::kTooLarge;
    pair->tried[{turns, policy, offload}] = verdict;
    if (candidate.fits) {
      if (candidate.step_seconds < pair->best_seconds) {
        pair->best_seconds = candidate.step_seconds;
        pair->best_turns = turns;
      }
      best_seconds_ = std::min(best_seconds_, candidate.step_seconds);
      // With one stage, going through the batch at once with nothing recomputed is the least of sums.
      if (pair->stages == 1 && turns == plans_.turns_of(*pair).front() && policy == Recompute::kNone &&
          candidate.assignment.rounds == 1)
        pair->is_settled = true;
    }
    plan_.candidates.push_back(std::move(candidate));
    return verdict;
  }

  // Whether an assignment of the recorded step that knew of no limit keeps it.
  bool is_plan(const Assignment& free) const {
    return !pins_.random && !pins_.saved && pins_.zero.value_or(0) < 2 &&
           pins_.offload.value_or(Offload::kNone) == Offload::kNone && free.fits &&
           free.bytes <= plans_.memory() && free.seconds - free.lower_bound <= kRoughGap * free.seconds;
  }

  // What is a plan already, then the others from the lowest estimate up, those of pipelines made when their
  // turn comes.
  void probe_all() {
    std::vector<std::pair<double, size_t>> waiting;  // the most promising last
    const auto add = [&](size_t pair) {
      const std::pair<double, size_t> one{rank(pairs_[pair]), pair};
      waiting.insert(std::upper_bound(waiting.begin(), waiting.end(), one, std::greater<>()), one);
    };
    for (size_t i = 0; i < pairs_.size(); ++i) {
      if (pairs_[i].stages == 1 && plans_.turns_of(pairs_[i]).front() == 1 && is_plan(pairs_[i].free)) {
        probe(&pairs_[i]);
      } else {
        add(i);
      }
    }
    while (!waiting.empty()) {
      Pair& pair = pairs_[waiting.back().second];
      const size_t at = waiting.back().second;
      waiting.pop_back();
      if (!may_be_best(pair)) {
        ++plan_.ruled_out;
      } else if (!pair.is_estimated) {
        estimate(&pair);
        add(at);
      } else {
        probe(&pair);
        // A plan that computes all again is far from what its pair can do, and rules nothing out.
        const bool is_best = pair.best_seconds < kInfinity && pair.best_seconds == best_seconds_;
        if (is_best && best_so_far()->outer.recompute != Recompute::kNone) search_on(&pair);
      }
    }
  }

  // One plan of a pair that fits, if there is one.
  void probe(Pair* pair) {
    const auto all = plans_.turns_of(*pair);
    auto first = std::lower_bound(all.begin(), all.end(), pair->stages == 1 ? 1 : 4 * pair->stages);
    if (first == all.end()) --first;
    while (first != all.begin() && least_seconds(*pair, *(first - 1)) < least_seconds(*pair, *first)) --first;
    if (attempt(pair, *first, Recompute::kNone) != Verdict::kTooLarge) return;
    if (attempt(pair, *first, Recompute::kFull) != Verdict::kTooLarge) return;
    if (attempt(pair, all.back(), Recompute::kFull) == Verdict::kTooLarge) return;
    auto low = first + 1, high = all.end() - 1;
    while (low < high) {  // the fewest turns that fit
      const auto middle = low + (high - low) / 2;
      if (attempt(pair, *middle, Recompute::kFull) == Verdict::kTooLarge) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
  }

  // From a pair's best number of turns to fewer and to more, as long as that helps.
  void search_on(Pair* pair) {
    if (pair->is_settled || pair->best_seconds == kInfinity) return;
    const auto all = plans_.turns_of(*pair);
    const auto from = std::find(all.begin(), all.end(), pair->best_turns);
    MOAI_ASSERT(from != all.end(), "no number of turns worth a try: ", pair->best_turns);
    recompute_less(pair, *from);
    for (auto at = from; at != all.begin() && recompute_less(pair, *(at - 1));) --at;
    for (auto at = from; at + 1 != all.end() && recompute_less(pair, *(at + 1));) ++at;
  }

  // Tries all ways to recompute that may pay at a number of turns; true if one is the pair's best.
  bool recompute_less(Pair* pair, int32_t turns, Offload offload = Offload::kNone) {
    const double before = pair->best_seconds;
    for (const auto policy : kRecomputes) {
      const size_t tried = plan_.candidates.size();
      const Verdict verdict = attempt(pair, turns, policy, offload);
      if (verdict == Verdict::kNoUse) break;
      // Where memory does not bind, computing again only adds.
      if (verdict == Verdict::kFits && plan_.candidates.size() > tried &&
          plan_.candidates.back().assignment.rounds == 1)
        break;
    }
    return pair->best_seconds < before;
  }

  std::vector<Candidate>::const_iterator best_so_far() const {
    return std::min_element(plan_.candidates.begin(), plan_.candidates.end(),
                            [](const Candidate& a, const Candidate& b) {
                              return a.fits != b.fits ? a.fits : a.fits && a.step_seconds < b.step_seconds;
                            });
  }

  void try_offload() {
    if (pins_.offload || pins_.recompute || pins_.saved || pins_.random || !plans_.has_host()) return;
    if (best_seconds_ < kInfinity) {
      Pair* best = nullptr;
      for (auto& pair : pairs_) {
        if (best == nullptr || pair.best_seconds < best->best_seconds) best = &pair;
      }
      if (memory_binds(*best)) offload_from(best, best->best_turns);
      return;
    }
    std::vector<Pair*> nearest;
    std::vector<const Candidate*> all;
    for (const auto& candidate : plan_.candidates) all.push_back(&candidate);
    std::stable_sort(all.begin(), all.end(),
                     [](const Candidate* a, const Candidate* b) { return a->peak_bytes < b->peak_bytes; });
    for (const Candidate* candidate : all) {
      for (auto& pair : pairs_) {
        if (pair.is_of(candidate->outer) && std::find(nearest.begin(), nearest.end(), &pair) == nearest.end())
          nearest.push_back(&pair);
      }
    }
    for (size_t i = 0; i < std::min(kSearchedOn, nearest.size()); ++i)
      offload_from(nearest[i], plans_.turns_of(*nearest[i]).back());
  }

  // Something of it was larger than the memory, or had to be split for it.
  bool memory_binds(const Pair& pair) const {
    const Candidate& best = *best_so_far();
    if (best.assignment.rounds > 1 || best.outer.recompute != Recompute::kNone) return true;
    return std::any_of(pair.tried.begin(), pair.tried.end(),
                       [](const auto& tried) { return tried.second == Verdict::kTooLarge; });
  }

  // With activations on the host: at a number of turns, and at fewer as long as that helps.
  void offload_from(Pair* pair, int32_t turns) {
    const auto all = plans_.turns_of(*pair);
    auto at = std::find(all.begin(), all.end(), turns);
    MOAI_ASSERT(at != all.end(), "no number of turns worth a try: ", turns);
    recompute_less(pair, *at, Offload::kActivations);
    while (at != all.begin() && recompute_less(pair, *(at - 1), Offload::kActivations)) --at;
  }

  // Where memory binds, or nothing fits: the best plan, and nothing in the place of sums of whole gradients.
  void try_gradients_at_once() {
    if (pins_.zero || pins_.saved || pins_.random || plan_.tried >= kMostTried) return;
    const auto best = best_so_far();
    if (best == plan_.candidates.end() || (best->fits && best->assignment.rounds <= 1)) return;
    const OuterChoice outer = best->outer;
    const double give_up = best->fits ? kHopeless * best->step_seconds : kInfinity;
    Candidate candidate = try_one(Evaluator::pair_of(outer), outer.micro_batches,
                                  {outer.recompute, outer.offload, Gradients::kAtOnce}, give_up);
    plan_.candidates.push_back(std::move(candidate));
  }

  // Divides one of the best plan's two axes once more.
  void try_three_axes() {
    const auto best = best_so_far();
    if (!pins_.axes.empty() || pins_.random || best == plan_.candidates.end()) return;
    const OuterChoice outer = best->outer;
    const double give_up = best->fits ? kHopelessAxis * best->assignment.seconds : kInfinity;
    if (outer.mesh.size() != 2) return;
    for (const auto& pair : three_axes(cluster_, outer.stages)) {
      if (pair.sizes[0] != outer.mesh[0] && pair.sizes[2] != outer.mesh[1]) continue;
      if (plan_.tried >= kMostTried) return;
      const Pair full = outer.capacity > 0 ? sending_rows(pair, outer.capacity) : pair;
      Candidate candidate = try_one(full, outer.micro_batches, {outer.recompute, outer.offload}, give_up);
      if (candidate.fits) plan_.candidates.push_back(std::move(candidate));
    }
  }

  // Bounds all plans.
  void prove() {
    const Candidate& best = plan_.best();
    const double sum = best.fits ? best.assignment.seconds : kInfinity;
    plan_.lower_bound = least_sum(plans_, pairs_, sum);
    if (!best.fits) return;
    plan_.gap = std::max(0.0, 1 - plan_.lower_bound / best.sum_seconds());
    if (!pins_.random) plan_.mesh_gap = std::max(0.0, 1 - best.assignment.lower_bound / sum);
  }

  // A pair's estimate as a plan.
  Candidate free_one(const Pair& pair) {
    Candidate out = plans_.candidate_of(pair, 1, {});
    out.assignment = pair.free;
    out.fits = true;
    plans_.simulate(&out, plans_.mesh_of(pair), plans_.terms_of(pair, 1));
    return out;
  }

  Candidate try_one(const Pair& pair, int32_t turns, const Rewriting& rewriting, double give_up) {
    ++plan_.tried;
    Candidate out = plans_.candidate_of(pair, turns, rewriting);
    Terms terms = plans_.terms_of(pair, turns);
    terms.enough_gap = kRoughGap;
    terms.proof_gap = kRoughProof;
    terms.rounds = kRoughRounds;
    terms.steps = std::min(terms.steps, kRoughSteps);
    terms.halvings = 0;
    terms.give_up = give_up;
    plans_.solve(&out, terms);
    return out;
  }

  // Searches on the best plans, and says what they are.
  void finish() {
    const auto order = [this] {
      std::stable_sort(plan_.candidates.begin(), plan_.candidates.end(),
                       [](const Candidate& a, const Candidate& b) {
                         if (a.fits != b.fits) return a.fits;
                         return a.fits ? a.step_seconds < b.step_seconds : a.peak_bytes < b.peak_bytes;
                       });
    };
    order();
    std::vector<Candidate> refined;
    for (size_t i = 0; i < std::min(kFinalists, plan_.candidates.size()); ++i) {
      Candidate& known = plan_.candidates[i];
      if (!known.fits || known.step_seconds > kWorthChunks * plan_.candidates[0].step_seconds) break;
      // A better choice gains no more than the gap, about.
      const bool is_near = known.step_seconds <= (1 + kRoughGap) * plan_.candidates[0].step_seconds;
      if (!known.assignment.exact && is_near && !pins_.random) refine(&known);
      if (known.outer.stages > 1) try_orders(known, &refined);
    }
    for (auto& candidate : refined) plan_.candidates.push_back(std::move(candidate));
    order();
    prove_best();
    for (auto& candidate : plan_.candidates) {
      if (candidate.fits) plans_.describe(&candidate);
    }
    const Candidate& best = plan_.best();
    plan_.step = plans_.step(best.outer);
    plan_.turn = plans_.turn(best.outer);
  }

  // A best plan of which only a rough proof is known: one of another order, say, than what was refined.
  void prove_best() {
    Candidate& best = plan_.candidates.front();
    const double enough = Terms{}.enough_gap;
    if (!best.fits || pins_.random || best.is_refined ||
        best.assignment.seconds - best.assignment.lower_bound <= enough * best.assignment.seconds)
      return;
    refine(&best);
  }

  // Asks the same question with all effort: what bounds that answer bounds the known one, too, whichever of
  // them is kept. Times of plans whose sums are the same differ by roundings.
  void refine(Candidate* known) {
    Candidate other = *known;
    plans_.solve(&other, plans_.terms_of(Evaluator::pair_of(known->outer), known->outer.micro_batches));
    if (other.fits) {
      const double bound = std::max(known->assignment.lower_bound, other.assignment.lower_bound);
      if (other.step_seconds <= known->step_seconds * (1 + 1e-9)) *known = std::move(other);
      Assignment& kept = known->assignment;
      kept.lower_bound = std::min(bound, kept.seconds);
      kept.exact = kept.exact || kept.lower_bound == kept.seconds;
    }
    known->is_refined = true;
  }

  // The same stages in other orders.
  void try_orders(const Candidate& like, std::vector<Candidate>* refined) {
    if (pins_.order && pins_.chunks) return;
    const auto line = plans_.line_of(like);
    for (const auto order : {Order::k1F1B, Order::kZeroBubble}) {
      for (int32_t chunks = 1; chunks <= kMostChunks; chunks *= 2) {
        if (order == like.outer.order && chunks == like.outer.chunks) continue;
        if ((pins_.order && *pins_.order != order) || (pins_.chunks && *pins_.chunks != chunks)) continue;
        if (chunks * like.outer.stages > static_cast<int32_t>(line.size())) continue;
        Candidate other = like;
        other.outer.order = order;
        other.outer.chunks = chunks;
        plans_.simulate_pipeline(&other, line);
        other.fits = other.peak_bytes <= plans_.memory() * (1 + 1e-9);
        if (other.fits) refined->push_back(std::move(other));
      }
    }
  }

  Clock::time_point start_;
  Evaluator plans_;
  const Pins& pins_;
  const Cluster& cluster_;
  std::vector<Pair> pairs_;
  double best_seconds_ = kInfinity;
  StepPlan plan_;
};

}  // namespace

StepPlan plan_step(const ir::Graph& graph, const Cluster& cluster, const Pins& pins) {
  return Planner(graph, cluster, pins).run();
}

}  // namespace moai::plan
