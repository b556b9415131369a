#include "plan/planner.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <map>
#include <memory>
#include <utility>

#include "ir/error.h"
#include "plan/pipeline_bound.h"
#include "plan/pipeline_cost.h"
#include "plan/plan_file.h"
#include "plan/random_plan.h"

namespace moai::plan {

namespace {

// Note [How plans are searched]
// What is chosen outside of an assignment (stages, a mesh for each, micro-batches, recomputation) is
// enumerated. Of every pair of stages and mesh a first assignment knows no limit on memory, goes through the
// batch at once and computes nothing twice: what it adds up to is an estimate of all plans of that pair, and
// where no option was left out a bound on them, since limits, turns and recomputation only add. Pairs are
// tried from the lowest estimate up (with the least that a pipeline idles), and those whose estimate is not
// below the best step found are left out. First each pair is probed at one number of turns; then the best few
// are searched on, with more and fewer turns and every way to recompute.
//
// One stage: meshes of one and two axes with all options. Pipelines: the outer axis splits the batch, the
// inner one what is in a sample, so that many can be compared; their bound is what computing alone takes at
// least. Three axes (data; sequence or experts; sequence or features) are tried last, for the stages of the
// best plan.
//
// The bound of the search is the least over all pairs, tried or not.

using Clock = std::chrono::steady_clock;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

constexpr int32_t kMostStages = 64;
// What adds up to so many times the best step is not searched on: overlap does not make up for it.
constexpr double kHopeless = 1.5;
constexpr size_t kSearchedOn = 4;
// While pairs are compared; the best is then searched on.
constexpr double kRoughGap = 0.02;
constexpr int32_t kRoughRounds = 10;
constexpr double kRoughSteps = 5e8;
constexpr int32_t kMostTried = 60;
constexpr size_t kFinalists = 3;
constexpr int32_t kMostChunks = 4;
// Devices of a stage from which on three axes are tried.
constexpr int32_t kThreeAxesFrom = 32;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

constexpr uint8_t kData = role_bit(Role::kBatch);
constexpr uint8_t kInSample = role_bit(Role::kSequence) | role_bit(Role::kExpert) | role_bit(Role::kFeature);

struct Pair {
  int32_t stages = 1;
  std::vector<int32_t> sizes;
  std::vector<uint8_t> splits;
  double estimate = 0;                                  // of what its plans add up to, at best
  double bound = 0;                                     // of any plan with these
  std::map<std::pair<int32_t, Recompute>, bool> tried;  // turns and what is recomputed: whether it fitted
  double best_seconds = std::numeric_limits<double>::infinity();  // simulated, of those that fitted
  bool is_settled = false;                                        // nothing else of the pair can be better
};

Pair make_pair_of(int32_t stages, std::vector<int32_t> sizes, std::vector<uint8_t> splits) {
  Pair pair;
  pair.stages = stages;
  pair.sizes = std::move(sizes);
  pair.splits = std::move(splits);
  return pair;
}

// How many devices the innermost axis may have: those of a host, or all where there is one level.
int64_t most_inner(const Cluster& cluster) {
  const auto last = static_cast<int32_t>(cluster.levels.size()) - 1;
  return last > 0 ? cluster.devices_in(last - 1) : cluster.device_count();
}

// A stage's devices on one axis, and every division in two whose inner axis divides a host.
void add_meshes(const Cluster& cluster, int32_t stages, std::vector<Pair>* pairs) {
  const int32_t devices = cluster.device_count() / stages;
  if (devices == 1) {
    pairs->push_back(make_pair_of(stages, {}, {}));
    return;
  }
  pairs->push_back(make_pair_of(stages, {devices}, {Axis::kAnyRole}));
  const int64_t host = most_inner(cluster);
  for (int32_t inner = 2; inner <= host && inner < devices; ++inner) {
    if (host % inner != 0 || devices % inner != 0) continue;
    const bool any = stages == 1;
    pairs->push_back(make_pair_of(stages, {devices / inner, inner},
                                  {any ? Axis::kAnyRole : kData, any ? Axis::kAnyRole : kInSample}));
  }
}

std::vector<Pair> three_axes(const Cluster& cluster, int32_t stages) {
  std::vector<Pair> pairs;
  const int32_t devices = cluster.device_count() / stages;
  const int64_t host = most_inner(cluster);
  for (int32_t inner = 2; inner <= host; inner *= 2) {
    for (int32_t middle = 2; middle <= host && int64_t{2} * middle * inner <= devices; middle *= 2) {
      if (host % inner != 0 || devices % (middle * inner) != 0) continue;
      pairs.push_back(make_pair_of(stages, {devices / middle / inner, middle, inner},
                                   {kData, role_bit(Role::kSequence) | role_bit(Role::kExpert),
                                    role_bit(Role::kSequence) | role_bit(Role::kFeature)}));
    }
  }
  return pairs;
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
    steps_[0] = std::make_unique<Step>(make_step(graph));
    plan_.kept_whole = kept_whole(base().graph, base().frame);
    plan_.no_turns = base().time.obstacle;
    for (const auto& rule : base().frame.rules) plan_.flops += rule.flops;
    plan_.batch = base().time.atoms.empty() ? 0 : base().time.size;
    plan_.rules_seconds = seconds_since(start);
  }

  StepPlan run() {
    auto start = Clock::now();
    find_bounds();
    plan_.bound_seconds = seconds_since(start);
    start = Clock::now();
    if (pins_.random) pairs_ = {pairs_[*pins_.random % pairs_.size()]};
    for (auto& pair : pairs_) probe(&pair);
    std::stable_sort(pairs_.begin(), pairs_.end(),
                     [](const Pair& a, const Pair& b) { return a.best_seconds < b.best_seconds; });
    for (size_t i = 0; i < std::min(kSearchedOn, pairs_.size()); ++i) search_on(&pairs_[i]);
    double bound = kInfinity;
    for (const auto& pair : pairs_) bound = std::min(bound, pair.bound);
    try_three_axes();
    finish();
    const Candidate& best = plan_.best();
    plan_.lower_bound = bound;
    plan_.gap = best.fits ? std::max(0.0, 1 - plan_.lower_bound / best.assignment.seconds) : 0;
    plan_.mesh_gap = best.fits && !pins_.random
                         ? std::max(0.0, 1 - best.assignment.lower_bound / best.assignment.seconds)
                         : 0;
    plan_.search_seconds = seconds_since(start);
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

  const Step& step(Recompute policy) {
    auto& made = steps_[static_cast<size_t>(policy)];
    if (!made) made = std::make_unique<Step>(make_step(base(), policy));
    return *made;
  }

  const Frame& turn(Recompute policy, int32_t turns) {
    auto& made = turns_[{policy, turns}];
    if (!made) made = std::make_unique<Frame>(frame_of_turn(step(policy).frame, step(policy).time, turns));
    return *made;
  }

  static Pair pair_of(const OuterChoice& outer) {
    return make_pair_of(outer.stages, outer.mesh, outer.splits);
  }

  Mesh mesh_of(const Pair& pair) const {
    Mesh mesh = Mesh::make(cluster_, pair.sizes);
    for (size_t a = 0; a < mesh.axes.size(); ++a) mesh.axes[a].splits = pair.splits[a];
    return mesh;
  }

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

  void find_bounds() {
    if (!pins_.axes.empty() || pins_.saved) {
      pairs_ = pinned_pairs();
    } else {
      const int32_t most = std::min({kMostStages, cluster_.device_count(), base().stretches()});
      for (int32_t stages = 1; stages <= most; stages *= 2) {
        if (pins_.stages && *pins_.stages != stages) continue;
        if (cluster_.device_count() % stages == 0 && (stages == 1 || has_turns()))
          add_meshes(cluster_, stages, &pairs_);
      }
    }
    if (pairs_.empty() || (pins_.stages && *pins_.stages > base().stretches())) {
      throw Error(Phase::kConfig,
                  concat("pp=", pins_.stages.value_or(1), " cannot be: forward has ", base().stretches(),
                         " stretches, ", cluster_.name, " has ", cluster_.device_count(), " devices"))
          .hint(
              "would work: a power of two that divides the devices, of at most as many stages as stretches");
    }
    for (auto& pair : pairs_) estimate(&pair);
    std::stable_sort(pairs_.begin(), pairs_.end(), [&](const Pair& a, const Pair& b) {
      return least_seconds(a, most_turns(a)) < least_seconds(b, most_turns(b));
    });
  }

  void estimate(Pair* pair) {
    Terms terms = terms_of(*pair, 1);
    terms.memory_bytes = 1e30;
    if (pair->stages > 1) {  // its bound is another
      terms.steps = kRoughSteps;
      terms.branches = 0;
    }
    const Mesh mesh = mesh_of(*pair);
    const Assignment free = assign(base(), base().frame, mesh, terms);
    pair->estimate = free.seconds;
    const bool has_all = std::all_of(pair->splits.begin(), pair->splits.end(),
                                     [](uint8_t splits) { return splits == Axis::kAnyRole; });
    pair->bound = free.lower_bound;
    if (pair->stages > 1)
      pair->bound = pipeline_bound(*pair, has_all || !pins_.axes.empty() ? free.lower_bound : 0);
    check_pins(*pair, free);
  }

  // Of all turns, `at_once` being one on the sums of their assignments.
  double pipeline_bound(const Pair& pair, double at_once) {
    double bound = kInfinity;
    for (const auto turns : turns_of(pair)) {
      bound = std::min(
          bound, least_pipeline_seconds(base(), turn(Recompute::kNone, turns), cluster_, turns, pair.stages,
                                        cluster_.device_count() / pair.stages, kMostChunks));
    }
    return std::max(bound, at_once);
  }

  // With the least that a pipeline idles: half of its 1F1B bubble, as weights' gradients can fill the rest.
  double least_seconds(const Pair& pair, int32_t turns) const {
    return pair.estimate * (1 + 0.5 * (pair.stages - 1) / turns);
  }
  int32_t most_turns(const Pair& pair) const { return turns_of(pair).back(); }

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
    std::vector<int32_t> all;
    for (int64_t turns = 1; has_turns() && turns <= base().time.size; turns *= 2) {
      if (base().time.size % turns != 0) break;
      if (pair.stages == 1 || turns >= pair.stages || turns * 2 > base().time.size ||
          base().time.size % (turns * 2) != 0)
        all.push_back(static_cast<int32_t>(turns));
    }
    if (all.empty()) all.push_back(1);
    return all;
  }

  // Tries one plan of a pair, unless that was done, is pinned otherwise, or can be no better than the best.
  // True if it fits.
  bool attempt(Pair* pair, int32_t turns, Recompute policy) {
    if (pins_.recompute) policy = *pins_.recompute;
    const auto known = pair->tried.find({turns, policy});
    if (known != pair->tried.end()) return known->second;
    if (least_seconds(*pair, turns) >= best_seconds_ || plan_.tried >= kMostTried) return false;
    Candidate candidate = try_one(*pair, turns, policy);
    const bool fits = candidate.fits;
    pair->tried[{turns, policy}] = fits;
    if (fits) {
      pair->best_seconds = std::min(pair->best_seconds, candidate.step_seconds);
      best_seconds_ = std::min(best_seconds_, candidate.step_seconds);
      // With one stage, going through the batch at once with nothing recomputed is the least of sums.
      if (pair->stages == 1 && turns == turns_of(*pair).front() && policy == Recompute::kNone &&
          candidate.assignment.rounds == 1)
        pair->is_settled = true;
    }
    plan_.candidates.push_back(std::move(candidate));
    return fits;
  }

  // One plan of a pair that fits, if there is one.
  void probe(Pair* pair) {
    const auto all = turns_of(*pair);
    const auto about = std::lower_bound(all.begin(), all.end(), pair->stages == 1 ? 1 : 4 * pair->stages);
    const int32_t first = about == all.end() ? all.back() : *about;
    const int32_t before = plan_.tried;
    if (attempt(pair, first, Recompute::kNone) || attempt(pair, first, Recompute::kFull)) return;
    if (plan_.tried == before) {
      ++plan_.ruled_out;
      return;
    }
    if (!attempt(pair, all.back(), Recompute::kFull)) return;
    auto low = std::upper_bound(all.begin(), all.end(), first), high = all.end() - 1;
    while (low < high) {  // the fewest turns that fit
      const auto middle = low + (high - low) / 2;
      if (attempt(pair, *middle, Recompute::kFull)) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
  }

  void search_on(Pair* pair) {
    if (pair->is_settled || pair->best_seconds == kInfinity) return;
    const auto all = turns_of(*pair);
    std::vector<int32_t> around;
    for (const auto& [plan, fits] : pair->tried) {
      const auto at = std::find(all.begin(), all.end(), plan.first);
      if (!fits || at == all.end()) continue;
      around.push_back(*at);
      if (at != all.begin()) around.push_back(*(at - 1));
      if (at + 1 != all.end()) around.push_back(*(at + 1));
    }
    for (const auto turns : around) {
      for (const auto policy : kRecomputes) attempt(pair, turns, policy);
    }
  }

  // Divides the best plan's meshes once more.
  void try_three_axes() {
    const auto best = std::min_element(
        plan_.candidates.begin(), plan_.candidates.end(), [](const Candidate& a, const Candidate& b) {
          return a.fits != b.fits ? a.fits : a.fits && a.step_seconds < b.step_seconds;
        });
    if (!pins_.axes.empty() || pins_.random || best == plan_.candidates.end()) return;
    const OuterChoice outer = best->outer;
    if (cluster_.device_count() / outer.stages < kThreeAxesFrom) return;
    std::vector<Pair> pairs = three_axes(cluster_, outer.stages);
    for (auto& pair : pairs) {
      if (plan_.tried >= kMostTried) return;
      Candidate candidate = try_one(pair, outer.micro_batches, outer.recompute);
      if (candidate.fits) plan_.candidates.push_back(std::move(candidate));
    }
  }

  Candidate try_one(const Pair& pair, int32_t turns, Recompute policy) {
    ++plan_.tried;
    Candidate out;
    out.outer.stages = pair.stages;
    out.outer.mesh = pair.sizes;
    out.outer.splits = pair.splits;
    out.outer.micro_batches = turns;
    out.outer.recompute = policy;
    out.outer.chunks = pins_.chunks.value_or(1);
    out.outer.order = pins_.order.value_or(Order::k1F1B);
    solve(&out, kRoughGap, kRoughRounds);
    return out;
  }

  // Assigns, and where that fits simulates.
  void solve(Candidate* out, double enough_gap, int32_t rounds) {
    const OuterChoice& outer = out->outer;
    const Pair pair = pair_of(outer);
    Terms terms = terms_of(pair, outer.micro_batches);
    terms.idle_turns = static_cast<double>(outer.stages - 1) / outer.chunks;
    terms.enough_gap = enough_gap;
    terms.rounds = rounds;
    terms.give_up = kHopeless * best_seconds_;
    if (pins_.saved) pin_saved(*pins_.saved, step(outer.recompute), &terms);
    const Mesh mesh = mesh_of(pair);
    const Frame& frame = turn(outer.recompute, outer.micro_batches);
    if (pins_.random) return draw(out, mesh, terms);
    // A stage with more than its share is only seen when stages are cut: then all get less.
    for (int32_t again = 0; again < 3; ++again) {
      out->assignment = assign(step(outer.recompute), frame, mesh, terms);
      out->fits = out->assignment.fits;
      out->excess = out->assignment.excess;
      out->peak_bytes = out->assignment.bytes;
      if (!out->fits) return;
      simulate(out, mesh, terms);
      if (out->peak_bytes <= memory_ * (1 + 1e-9)) return;
      out->fits = false;
      out->excess = concat("memory of the fullest stage: ", out->peak_bytes, " bytes, limit ", memory_);
      terms.memory_bytes *= 0.98 * memory_ / out->peak_bytes;
    }
  }

  void draw(Candidate* out, const Mesh& mesh, const Terms& terms) {
    SplitCounts counts;
    const auto any = [](ir::NodeId, const Option&) { return true; };
    out->assignment = random_assignment(base().graph, base().frame, mesh, *pins_.random, any, &counts);
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
      simulate_pipeline(out, stretches(made, frame, mesh, out->assignment));
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
    out->step_seconds = cost.spent.seconds;
    out->spent = cost.spent;
    out->bubble_seconds = cost.bubble_seconds;
    out->peak_bytes = cost.peak_bytes;
    out->bytes = cost.bytes;
    if (cost.excess.empty()) return;
    out->fits = false;
    out->excess = cost.excess;
  }

  // Searches the best plans on, and says what they are.
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
      if (!rough.fits) break;
      Candidate better = rough;
      if (!rough.assignment.exact && !pins_.random) {
        solve(&better, Terms{}.enough_gap, Terms{}.rounds);
        if (better.fits && better.step_seconds <= rough.step_seconds) plan_.candidates[i] = better;
      }
      if (rough.outer.stages > 1) try_orders(plan_.candidates[i], &refined);
    }
    for (auto& candidate : refined) plan_.candidates.push_back(std::move(candidate));
    order();
    double state_bytes = 0;
    for (size_t i = 0; i < base().graph.inputs().size(); ++i)
      state_bytes += static_cast<double>(base().graph.type(base().graph.inputs()[i]).bytes());
    for (auto& candidate : plan_.candidates) {
      if (!candidate.fits) continue;
      const Mesh mesh = mesh_of(pair_of(candidate.outer));
      candidate.axes = axis_uses(step(candidate.outer.recompute), mesh, candidate.assignment);
      candidate.layout = words(candidate, state_bytes);
    }
    Candidate& best = plan_.candidates.front();
    if (!best.fits) return;
    const Mesh mesh = mesh_of(pair_of(best.outer));
    plan_.saved = save_plan(step(best.outer.recompute), best.outer, best.assignment);
    best.tensors = tensor_groups(step(best.outer.recompute), mesh, best.axes, best.assignment);
    best.breakdown =
        breakdown(step(best.outer.recompute), turn(best.outer.recompute, best.outer.micro_batches), mesh,
                  terms_of(pair_of(best.outer), best.outer.micro_batches), best.assignment);
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
  std::unique_ptr<Step> steps_[3];
  std::map<std::pair<Recompute, int32_t>, std::unique_ptr<Frame>> turns_;
  std::vector<Pair> pairs_;
  double best_seconds_ = kInfinity;
  StepPlan plan_;
};

}  // namespace

StepPlan plan_step(const ir::Graph& graph, const Cluster& cluster, const Pins& pins) {
  return Planner(graph, cluster, pins).run();
}

}  // namespace moai::plan
