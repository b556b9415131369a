#include "plan/planner.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <map>
#include <memory>
#include <utility>

#include "ir/error.h"
#include "plan/pairs.h"
#include "plan/pipeline_bound.h"
#include "plan/pipeline_cost.h"
#include "plan/plan_file.h"
#include "plan/random_plan.h"

namespace moai::plan {

namespace {

// Note [How plans are searched]
// What is chosen outside of an assignment (stages, a mesh for each, micro-batches, recomputation) is
// enumerated. Of every pair of stages and mesh a first assignment knows no limit on memory, goes through the
// batch at once and computes nothing twice: its bound is an estimate of all plans of that pair, and where no
// option was left out a bound on them, since limits, turns and recomputation only add. With one stage it is
// often a plan already: where its memory is there, only its proof can be bettered.
//
// Pairs are tried from the lowest estimate up, with the least that a pipeline idles and what more turns take
// to start their ops; pipelines have no estimate of their own before computing alone would not rule them out.
// Those whose estimate is not below the best step found are left out. First each pair is probed at one number
// of turns; then the best few go on, to fewer and to more turns as long as that helps, and recompute more
// where memory binds.
//
// One stage: meshes of one and two axes with all options. Pipelines: the outer axis splits the batch, the
// inner one what is in a sample, so that many can be compared; their bound is what computing alone takes at
// least. Three axes (data; sequence or experts; sequence or features) are tried last, for the stages of the
// best plan.
//
// The bound of the search is the least over all pairs, tried or not; those below the best plan are proven
// once more, to the end.

using Clock = std::chrono::steady_clock;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

constexpr int32_t kMostStages = 64;
// What adds up to so many times the best step is not searched on: overlap does not make up for it.
constexpr double kHopeless = 1.5;
constexpr size_t kSearchedOn = 4;
// What adds up to so many times what the best plan does is not better with an axis more.
constexpr double kHopelessAxis = 1.2;
// While pairs are compared; the best is then searched on.
constexpr double kRoughGap = 0.02;
constexpr double kRoughProof = 0.005;
constexpr int32_t kRoughRounds = 10;
constexpr double kRoughSteps = 5e8;
constexpr int32_t kMostTried = 60;
constexpr size_t kFinalists = 6;
// Of the best step: slower pipelines are not worth more chunks.
constexpr double kWorthChunks = 1.25;
constexpr int32_t kMostChunks = 4;
// Devices of a stage from which on three axes are tried.
constexpr int32_t kThreeAxesFrom = 32;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

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
  if (parts > 1.05) add(concat("weights and states in ", static_cast<int64_t>(parts + 0.5), " parts"), "; ");
  if (outer.micro_batches > 1) add(concat(outer.micro_batches, " micro-batches"), "; ");
  if (outer.recompute != Recompute::kNone) add(concat("recompute ", recompute_name(outer.recompute)), "; ");
  return text;
}

class Planner {
 public:
  Planner(const ir::Graph& graph, const Cluster& cluster, const Pins& pins)
      : cluster_(cluster.evened()),
        pins_(settled(pins)),
        memory_(static_cast<double>(cluster_.smallest_memory())) {
    const auto start = Clock::now();
    steps_[0] = std::make_shared<const Step>(make_step(graph));
    plan_.kept_whole = kept_whole(base().graph, base().frame);
    plan_.no_turns = base().time.obstacle;
    for (const auto& rule : base().frame.rules) plan_.flops += rule.flops;
    plan_.batch = base().time.atoms.empty() ? 0 : base().time.size;
    plan_.rules_seconds = seconds_since(start);
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
    try_three_axes();
    finish();
    plan_.search_seconds = seconds_since(start);
    start = Clock::now();
    prove();
    plan_.bound_seconds += seconds_since(start);
    return std::move(plan_);
  }

 private:
  // A saved plan settles all that pins can.
  static Pins settled(Pins pins) {
    if (!pins.saved) return pins;
    const OuterChoice& outer = pins.saved->outer;
    pins.axes.clear();
    for (size_t a = 0; a < outer.mesh.size(); ++a)
      pins.axes.push_back({concat("mesh axis ", a), outer.mesh[a], outer.splits[a]});
    pins.stages = outer.stages;
    pins.chunks = outer.chunks;
    pins.micro_batches = outer.micro_batches;
    pins.recompute = outer.recompute;
    pins.order = outer.order;
    return pins;
  }

  const Step& base() const { return *steps_[0]; }

  const Step& step(Recompute policy) { return *shared_step(policy); }

  const std::shared_ptr<const Step>& shared_step(Recompute policy) {
    auto& made = steps_[static_cast<size_t>(policy)];
    if (!made) made = std::make_shared<const Step>(make_step(base(), policy));
    return made;
  }

  const Frame& turn(Recompute policy, int32_t turns) { return *shared_turn(policy, turns); }

  const std::shared_ptr<const Frame>& shared_turn(Recompute policy, int32_t turns) {
    auto& made = turns_[{policy, turns}];
    if (!made)
      made = std::make_shared<const Frame>(frame_of_turn(step(policy).frame, step(policy).time, turns));
    return made;
  }

  static Pair pair_of(const OuterChoice& outer) {
    Pair pair;
    pair.stages = outer.stages;
    pair.sizes = outer.mesh;
    pair.splits = outer.splits;
    return pair;
  }

  Mesh mesh_of(const Pair& pair) const { return Mesh::make(cluster_, pair.sizes, pair.splits); }

  std::vector<Pair> pinned_pairs() const {
    int64_t devices = 1;
    Pair pair;
    for (const auto& axis : pins_.axes) {
      devices *= axis.size;
      pair.sizes.push_back(axis.size);
      pair.splits.push_back(axis.splits);
    }
    const int64_t all = cluster_.device_count();
    const int64_t stages = pins_.stages.value_or(devices > 0 && all % devices == 0 ? all / devices : 1);
    if (devices * stages != all) {
      throw Error(Phase::kConfig, concat("the pinned axes and ", stages, " stage(s) take ", devices * stages,
                                         " devices, and ", cluster_.name, " has ", all))
          .hint("would work: sizes whose product is the number of devices");
    }
    pair.stages = static_cast<int32_t>(stages);
    return {pair};
  }

  void find_pairs() {
    if (!pins_.axes.empty() || pins_.saved) {
      pairs_ = pinned_pairs();
    } else {
      const int32_t devices = cluster_.device_count();
      const int32_t most = std::min({kMostStages, devices, base().stretches()});
      for (int32_t stages = 1; stages <= most; ++stages) {
        if ((pins_.stages && *pins_.stages != stages) || devices % stages != 0) continue;
        if (stages > 1 && !has_turns() && !pins_.stages) continue;
        for (auto& pair : plan::pairs_of(cluster_, stages)) pairs_.push_back(std::move(pair));
      }
    }
    if (pairs_.empty() || (pins_.stages && *pins_.stages > base().stretches())) {
      throw Error(Phase::kConfig,
                  concat("pp=", pins_.stages.value_or(1), " cannot be: forward has ", base().stretches(),
                         " stretches, ", cluster_.name, " has ", cluster_.device_count(), " devices"))
          .hint("would work: a divisor of the devices, of at most as many stages as stretches");
    }
    if (pins_.random) pairs_ = {pairs_[*pins_.random % pairs_.size()]};
    for (auto& pair : pairs_) {
      if (pair.stages == 1 || !pins_.axes.empty()) {
        estimate(&pair);
      } else {
        pair.bound = pair.estimate = computing_bound(pair);
      }
    }
  }

  // The pair's first assignment; see Note [How plans are searched].
  void estimate(Pair* pair, double proof_gap = kRoughProof, double give_up = kInfinity) {
    Terms terms = terms_of(*pair, 1);
    terms.memory_bytes = 1e30;
    terms.rounds = 1;
    terms.proof_gap = proof_gap;
    terms.give_up = give_up;
    if (pair->stages > 1) {  // its bound is another
      terms.proof_gap = kRoughGap;
      terms.steps = kRoughSteps;
      terms.branches = 0;
    }
    const Mesh mesh = mesh_of(*pair);
    Assignment free = assign(base(), base().frame, mesh, terms);
    pair->is_estimated = true;
    pair->estimate = free.lower_bound;
    pair->bound = pair->stages == 1 ? free.lower_bound : computing_bound(*pair);
    if (pair->stages > 1 && (pair->has_all() || !pins_.axes.empty()))
      pair->bound = std::max(pair->bound, free.lower_bound);
    check_pins(*pair, free);
    if (pair->stages == 1) pair->free = std::move(free);
  }

  // What computing alone takes a pipeline at least, with whatever number of turns.
  double computing_bound(const Pair& pair) {
    double bound = kInfinity;
    for (const auto turns : turns_of(pair)) bound = std::min(bound, computing_bound(pair, turns));
    return bound;
  }

  double computing_bound(const Pair& pair, int32_t turns) {
    const auto it = computing_.emplace(std::make_pair(pair.stages, turns), 0.0);
    if (it.second) {
      it.first->second =
          least_pipeline_seconds(base(), turn(Recompute::kNone, turns), cluster_, turns, pair.stages,
                                 cluster_.device_count() / pair.stages, kMostChunks);
    }
    return it.first->second;
  }

  // Of a pair's plans: with the least that a pipeline idles (half of its 1F1B bubble, as weights' gradients
  // can fill the rest), and with what more turns take to start their ops.
  double least_seconds(const Pair& pair, int32_t turns) {
    if (!pair.is_estimated) return computing_bound(pair, turns);
    const double starts = (turns - 1) * base().loop_ops * cluster_.device(0).op_overhead_s / pair.stages;
    return (pair.estimate + starts) * (1 + 0.5 * (pair.stages - 1) / turns);
  }

  // Where a pair stands in line: with all of that bubble, since the first order that is simulated has it.
  double rank(const Pair& pair) {
    double least = kInfinity;
    for (const auto turns : turns_of(pair)) {
      const double half = 0.5 * (pair.stages - 1) / turns;
      least = std::min(least, least_seconds(pair, turns) * (1 + half / (1 + half)));
    }
    return least;
  }

  bool may_be_best(const Pair& pair) {
    const auto all = turns_of(pair);
    return std::any_of(all.begin(), all.end(),
                       [&](int32_t turns) { return least_seconds(pair, turns) < best_seconds_; });
  }

  // An axis that is pinned and splits nothing is a mistake.
  void check_pins(const Pair& pair, const Assignment& free) const {
    if (pins_.saved) return;  // what an entry splits is checked by itself
    const Mesh mesh = mesh_of(pair);
    const auto uses = axis_uses(base(), mesh, free);
    for (size_t a = 0; a < pins_.axes.size(); ++a) {
      const AxisPin& pin = pins_.axes[a];
      const bool is_for_experts = (pin.splits & role_bit(Role::kExpert)) != 0;
      if (is_for_experts ? uses[a].expert > 0 : uses[a].whole < 1 - 1e-9) continue;
      ir::NodeId largest = 0;
      for (ir::NodeId n = 0; n < static_cast<ir::NodeId>(base().graph.nodes().size()); ++n) {
        if (base().frame.rules[n].flops > base().frame.rules[largest].flops) largest = n;
      }
      int64_t size = 0;
      std::string name = "no dimension";
      for (size_t f = 0; f < base().frame.node_factors[largest].size(); ++f) {
        for (const auto atom : base().frame.node_factors[largest][f]) {
          const Role role = base().roles.of_atom[atom];
          if ((pin.splits & role_bit(role)) == 0 || (is_for_experts && role != Role::kExpert)) continue;
          if (base().frame.atoms.size(atom) <= size) continue;
          size = base().frame.atoms.size(atom);
          name = concat("dimension ", base().frame.rules[largest].factors[f].name, " of ", size);
        }
      }
      throw Error(Phase::kPlan, concat(pin.name, "=", pin.size, " splits nothing: ",
                                       base().graph.node(largest).op.str(), " has ", name, " for it"))
          .hint(size > 1 ? concat("would work: ", pin.name, " of at most ", size) : "would work: without it");
    }
  }

  bool has_turns() const { return base().time.obstacle.empty(); }

  Terms terms_of(const Pair& pair, int32_t turns) const {
    Terms terms;
    terms.steps = pins_.solver_steps;
    terms.branches = pins_.solver_branches;
    terms.memory_bytes = memory_;
    terms.stages = pair.stages;
    terms.turns = turns;
    terms.zero = pins_.zero.value_or(-1);
    terms.uses_axes = !pins_.axes.empty() && !pins_.saved;
    return terms;
  }

  // The numbers of turns worth a try, ascending.
  std::vector<int32_t> turns_of(const Pair& pair) const {
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
      return {turns};
    }
    if (!has_turns()) return {1};
    std::vector<int32_t> all = turns_worth_a_try(base().time.size);
    if (pair.stages > 1) {
      const auto enough = std::lower_bound(all.begin(), all.end(), pair.stages);
      all.erase(all.begin(), enough == all.end() ? enough - 1 : enough);
    }
    return all;
  }

  // Tries one plan of a pair, unless that was done, is pinned otherwise, or can be no better than the best.
  Verdict attempt(Pair* pair, int32_t turns, Recompute policy) {
    if (pins_.recompute) policy = *pins_.recompute;
    const auto known = pair->tried.find({turns, policy});
    if (known != pair->tried.end()) return known->second;
    const bool is_free = pair->stages == 1 && turns == 1 && policy == Recompute::kNone && is_plan(pair->free);
    // What is a plan already costs next to nothing to compare, and may overlap better than it adds up.
    if (!is_free && (least_seconds(*pair, turns) >= best_seconds_ || plan_.tried >= kMostTried))
      return Verdict::kNoUse;
    const double give_up = kHopeless * best_seconds_;
    Candidate candidate = is_free ? free_one(*pair) : try_one(*pair, turns, policy, give_up);
    const double bound = candidate.assignment.lower_bound;  // infinite where nothing fits
    const bool is_of_no_use = bound >= give_up && bound < kInfinity;
    const Verdict verdict = candidate.fits ? Verdict::kFits
                            : is_of_no_use ? Verdict::kNoUse
                                           : Verdict::kTooLarge;
    pair->tried[{turns, policy}] = verdict;
    if (candidate.fits) {
      if (candidate.step_seconds < pair->best_seconds) {
        pair->best_seconds = candidate.step_seconds;
        pair->best_turns = turns;
      }
      best_seconds_ = std::min(best_seconds_, candidate.step_seconds);
      // With one stage, going through the batch at once with nothing recomputed is the least of sums.
      if (pair->stages == 1 && turns == turns_of(*pair).front() && policy == Recompute::kNone &&
          candidate.assignment.rounds == 1)
        pair->is_settled = true;
    }
    plan_.candidates.push_back(std::move(candidate));
    return verdict;
  }

  // Whether an assignment that knew of no limit keeps it.
  bool is_plan(const Assignment& free) const {
    return !pins_.random && !pins_.saved && free.fits && free.bytes <= memory_ &&
           free.seconds - free.lower_bound <= kRoughGap * free.seconds;
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
      if (pairs_[i].stages == 1 && turns_of(pairs_[i]).front() == 1 && is_plan(pairs_[i].free)) {
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
      }
    }
  }

  // One plan of a pair that fits, if there is one.
  void probe(Pair* pair) {
    const auto all = turns_of(*pair);
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
    const auto all = turns_of(*pair);
    const auto from = std::find(all.begin(), all.end(), pair->best_turns);
    MOAI_ASSERT(from != all.end(), "no number of turns worth a try: ", pair->best_turns);
    recompute_less(pair, *from);
    for (auto at = from; at != all.begin() && recompute_less(pair, *(at - 1));) --at;
    for (auto at = from; at + 1 != all.end() && recompute_less(pair, *(at + 1));) ++at;
  }

  // Tries all ways to recompute that may pay at a number of turns; true if one is the pair's best.
  bool recompute_less(Pair* pair, int32_t turns) {
    const double before = pair->best_seconds;
    for (const auto policy : kRecomputes) {
      const size_t tried = plan_.candidates.size();
      const Verdict verdict = attempt(pair, turns, policy);
      if (verdict == Verdict::kNoUse) break;
      // Where memory does not bind, computing again only adds.
      if (verdict == Verdict::kFits && plan_.candidates.size() > tried &&
          plan_.candidates.back().assignment.rounds == 1)
        break;
    }
    return pair->best_seconds < before;
  }

  // Divides one of the best plan's two axes once more.
  void try_three_axes() {
    const auto best = std::min_element(
        plan_.candidates.begin(), plan_.candidates.end(), [](const Candidate& a, const Candidate& b) {
          return a.fits != b.fits ? a.fits : a.fits && a.step_seconds < b.step_seconds;
        });
    if (!pins_.axes.empty() || pins_.random || best == plan_.candidates.end()) return;
    const OuterChoice outer = best->outer;
    const double give_up = best->fits ? kHopelessAxis * best->assignment.seconds : kInfinity;
    if (outer.mesh.size() != 2 || cluster_.device_count() / outer.stages < kThreeAxesFrom) return;
    for (const auto& pair : three_axes(cluster_, outer.stages)) {
      if (pair.sizes[0] != outer.mesh[0] && pair.sizes[2] != outer.mesh[1]) continue;
      if (plan_.tried >= kMostTried) return;
      Candidate candidate = try_one(pair, outer.micro_batches, outer.recompute, give_up);
      if (candidate.fits) plan_.candidates.push_back(std::move(candidate));
    }
  }

  // Bounds all plans. What was only estimated is proven to the end where the bound hangs on it.
  void prove() {
    const Candidate& best = plan_.best();
    const double sum = best.fits ? best.assignment.seconds : kInfinity;
    Pair* lowest = nullptr;
    std::vector<Pair*> proven;
    const auto is_proven = [&] {
      return lowest->stages > 1 || lowest->free.exact || !best.fits || pins_.random ||
             std::find(proven.begin(), proven.end(), lowest) != proven.end();
    };
    while (true) {
      lowest = &*std::min_element(pairs_.begin(), pairs_.end(),
                                  [](const Pair& a, const Pair& b) { return a.bound < b.bound; });
      if (lowest->bound >= sum * (1 - Terms{}.enough_gap) || is_proven()) break;
      proven.push_back(lowest);
      const double before = lowest->bound;
      estimate(lowest, 0, sum);
      lowest->bound = std::max(lowest->bound, before);
    }
    plan_.lower_bound = lowest->bound;
    if (!best.fits) return;
    plan_.gap = std::max(0.0, 1 - plan_.lower_bound / sum);
    if (!pins_.random) plan_.mesh_gap = std::max(0.0, 1 - best.assignment.lower_bound / sum);
  }

  Candidate candidate_of(const Pair& pair, int32_t turns, Recompute policy) const {
    Candidate out;
    out.outer.stages = pair.stages;
    out.outer.mesh = pair.sizes;
    out.outer.splits = pair.splits;
    out.outer.micro_batches = turns;
    out.outer.recompute = policy;
    out.outer.chunks = pins_.chunks.value_or(1);
    out.outer.order = pins_.order.value_or(Order::k1F1B);
    return out;
  }

  // A pair's estimate as a plan.
  Candidate free_one(const Pair& pair) {
    Candidate out = candidate_of(pair, 1, Recompute::kNone);
    out.assignment = pair.free;
    out.fits = true;
    simulate(&out, mesh_of(pair), terms_of(pair, 1));
    return out;
  }

  Candidate try_one(const Pair& pair, int32_t turns, Recompute policy, double give_up) {
    ++plan_.tried;
    Candidate out = candidate_of(pair, turns, policy);
    Terms terms = terms_of(pair, turns);
    terms.enough_gap = kRoughGap;
    terms.proof_gap = kRoughProof;
    terms.rounds = kRoughRounds;
    terms.give_up = give_up;
    solve(&out, terms);
    return out;
  }

  // Assigns, and where that fits simulates.
  void solve(Candidate* out, Terms terms) {
    const OuterChoice& outer = out->outer;
    const Pair pair = pair_of(outer);
    terms.idle_turns = static_cast<double>(outer.stages - 1) / outer.chunks;
    if (pins_.saved) pin_saved(*pins_.saved, step(outer.recompute), &terms);
    const Mesh mesh = mesh_of(pair);
    const Frame& frame = turn(outer.recompute, outer.micro_batches);
    if (pins_.random) return draw(out, mesh, terms);
    // A stage with more than its share is only seen when stages are cut: then all get less.
    for (int32_t again = 0; again < 3; ++again) {
      out->assignment = assign(step(outer.recompute), frame, mesh, terms);
      out->fits = out->assignment.fits && out->assignment.lower_bound < terms.give_up;
      out->excess = out->assignment.excess;
      out->peak_bytes = out->assignment.bytes;
      if (!out->fits) return;
      simulate(out, mesh, terms);
      if (!out->excess.empty() || out->peak_bytes <= memory_ * (1 + 1e-9)) return;
      out->fits = false;
      out->excess = concat("memory of the fullest stage: ", out->peak_bytes, " bytes, limit ", memory_);
      terms.memory_bytes *= 0.98 * memory_ / out->peak_bytes;
    }
  }

  void draw(Candidate* out, const Mesh& mesh, const Terms& terms) {
    SplitCounts counts;
    out->assignment = random_assignment(base().graph, base().frame, mesh, *pins_.random, &counts);
    const std::vector<double> live = live_bytes(base(), base().frame, mesh, terms, out->assignment);
    out->assignment.bytes = *std::max_element(live.begin(), live.end());
    out->fits = out->assignment.fits = out->assignment.bytes <= memory_;
    simulate(out, mesh, terms);
    out->assignment.seconds = out->spent.compute + out->spent.communicate;
    out->peak_bytes = out->assignment.bytes;
  }

  void simulate(Candidate* out, const Mesh& mesh, const Terms& terms) {
    const OuterChoice& outer = out->outer;
    const Step& made = step(outer.recompute);
    const Frame& frame = turn(outer.recompute, outer.micro_batches);
    if (outer.stages > 1) {
      const auto line = stretches(made, frame, mesh, out->assignment);
      simulate_pipeline(out, line);
      if (pins_.order || !out->excess.empty()) return;
      Candidate other = *out;
      other.outer.order = Order::kZeroBubble;
      simulate_pipeline(&other, line);
      if (other.peak_bytes <= memory_ && other.step_seconds < out->step_seconds) *out = std::move(other);
      return;
    }
    const Whole all = whole(made, frame, mesh, terms, out->assignment);
    out->spent = all.spent;
    out->step_seconds = all.spent.seconds;
    out->bytes = all.bytes;
    out->peak_bytes = all.bytes.total();
  }

  void simulate_pipeline(Candidate* out, const std::vector<Stretch>& line) {
    const PipelineCost cost = pipeline_cost(line, out->outer, cluster_, memory_);
    out->stage_begins = cost.stage_begins;
    out->schedule = cost.schedule;
    out->step_seconds = cost.spent.seconds;
    out->spent = cost.spent;
    out->bubble_seconds = cost.bubble_seconds;
    out->peak_bytes = cost.peak_bytes;
    out->bytes = cost.bytes;
    if (cost.excess.empty()) return;
    out->fits = false;
    out->excess = cost.excess;
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
      const Candidate& rough = plan_.candidates[i];
      if (!rough.fits || rough.step_seconds > kWorthChunks * plan_.candidates[0].step_seconds) break;
      Candidate better = rough;
      // A better choice gains no more than the gap, about.
      const bool is_near = rough.step_seconds <= (1 + kRoughGap) * plan_.candidates[0].step_seconds;
      if (!rough.assignment.exact && is_near && !pins_.random) {
        solve(&better, terms_of(pair_of(rough.outer), rough.outer.micro_batches));
        if (better.fits && better.step_seconds <= rough.step_seconds) plan_.candidates[i] = better;
      }
      if (rough.outer.stages > 1) try_orders(plan_.candidates[i], &refined);
    }
    for (auto& candidate : refined) plan_.candidates.push_back(std::move(candidate));
    order();
    prove_best();
    double state_bytes = 0;
    for (size_t i = 0; i < base().graph.inputs().size(); ++i)
      state_bytes += static_cast<double>(base().graph.type(base().graph.inputs()[i]).bytes());
    for (auto& candidate : plan_.candidates) {
      if (!candidate.fits) continue;
      const Mesh mesh = mesh_of(pair_of(candidate.outer));
      candidate.axes = axis_uses(step(candidate.outer.recompute), mesh, candidate.assignment);
      candidate.layout = words(candidate, state_bytes);
    }
    const Candidate& best = plan_.best();
    plan_.step = shared_step(best.outer.recompute);
    plan_.turn = shared_turn(best.outer.recompute, best.outer.micro_batches);
  }

  // A best plan of which only a rough proof is known.
  void prove_best() {
    Candidate& best = plan_.candidates.front();
    const double enough = Terms{}.enough_gap;
    if (!best.fits || pins_.random ||
        best.assignment.seconds - best.assignment.lower_bound <= enough * best.assignment.seconds)
      return;
    Candidate better = best;
    solve(&better, terms_of(pair_of(best.outer), best.outer.micro_batches));
    if (better.fits && better.step_seconds <= best.step_seconds) best = std::move(better);
  }

  // The same stages in other orders.
  void try_orders(const Candidate& like, std::vector<Candidate>* refined) {
    if (pins_.order && pins_.chunks) return;
    const Pair pair = pair_of(like.outer);
    const Mesh mesh = mesh_of(pair);
    const Step& made = step(like.outer.recompute);
    const Frame& frame = turn(like.outer.recompute, like.outer.micro_batches);
    const auto line = stretches(made, frame, mesh, like.assignment);
    for (const auto order : {Order::k1F1B, Order::kZeroBubble}) {
      for (int32_t chunks = 1; chunks <= kMostChunks; chunks *= 2) {
        if (order == like.outer.order && chunks == like.outer.chunks) continue;
        if ((pins_.order && *pins_.order != order) || (pins_.chunks && *pins_.chunks != chunks)) continue;
        if (chunks * like.outer.stages > static_cast<int32_t>(line.size())) continue;
        Candidate other = like;
        other.outer.order = order;
        other.outer.chunks = chunks;
        simulate_pipeline(&other, line);
        other.fits = other.peak_bytes <= memory_ * (1 + 1e-9);
        if (other.fits) refined->push_back(std::move(other));
      }
    }
  }

  Cluster cluster_;  // its devices equal
  Pins pins_;
  double memory_;
  std::shared_ptr<const Step> steps_[3];
  std::map<std::pair<Recompute, int32_t>, std::shared_ptr<const Frame>> turns_;
  std::map<std::pair<int32_t, int32_t>, double> computing_;  // by stages and turns
  std::vector<Pair> pairs_;
  double best_seconds_ = kInfinity;
  StepPlan plan_;
};

}  // namespace

StepPlan plan_step(const ir::Graph& graph, const Cluster& cluster, const Pins& pins) {
  return Planner(graph, cluster, pins).run();
}

}  // namespace moai::plan
