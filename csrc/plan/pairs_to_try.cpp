#include "plan/pairs_to_try.h"

#include <algorithm>
#include <utility>

#include "ir/error.h"
#include "plan/send_rows.h"

namespace moai::plan {

namespace {

constexpr int32_t kMostStages = 64;

std::vector<Pair> all_pairs(const Evaluator& plans) {
  const Pins& pins = plans.pins();
  const Cluster& cluster = plans.cluster();
  const int32_t devices = cluster.device_count();
  const bool is_hinted = !plans.base().graph.hints().empty();  // see Note [Hints]
  const int32_t most = std::min({kMostStages, devices, plans.base().stretches()});
  std::vector<Pair> pairs;
  for (int32_t stages = 1; stages <= most; ++stages) {
    if ((pins.stages && *pins.stages != stages) || devices % stages != 0) continue;
    if (stages > 1 && !plans.has_turns() && !pins.stages) continue;
    for (auto& pair : pairs_of(cluster, stages, is_hinted)) pairs.push_back(std::move(pair));
  }
  return pairs;
}

// What rows are sent by may not be what turns divide: then those that can go in turns stay.
bool keeps_turns(Evaluator& plans, const Pair& pair) {
  return !plans.has_turns() || plans.recorded(pair).time.obstacle.empty();
}

bool has_experts_along_several(const Pins& pins) {
  return !pins.saved && std::count_if(pins.axes.begin(), pins.axes.end(), is_for_experts) > 1;
}

std::string axes_of_experts(const Pins& pins) {
  std::string names;
  for (const auto& axis : pins.axes) {
    if (is_for_experts(axis)) names += concat(names.empty() ? "" : " and ", axis.name);
  }
  return names;
}

void send_rows_too(Evaluator& plans, std::vector<Pair>* pairs) {
  const Pins& pins = plans.pins();
  const double capacity = pins.capacity.value_or(pins.usual_capacity);
  if (capacity == 0 || pins.random) return;
  if (has_experts_along_several(pins)) {
    if (!pins.capacity) return;
    throw Error(Phase::kPlan, concat("capacity=", capacity, " cannot be: rows are sent along one axis, and ",
                                     axes_of_experts(pins), " have experts"))
        .hint("would work: experts along one of them, or capacity=0");
  }
  std::vector<Pair> sending;
  for (const auto& pair : *pairs) {
    if (!pair.sizes.empty()) sending.push_back(sending_rows(pair, capacity));
  }
  const bool has_rows = sends_rows(plans.base().graph, plans.base().frame);
  if (pins.capacity && (!has_rows || sending.empty())) {
    throw Error(
        Phase::kPlan,
        concat("capacity=", capacity, " cannot be: ",
               has_rows ? "each stage has one device"
                        : "no rows of the step are sorted by the experts that a batch of tokens chose"))
        .hint("would work: capacity=0");
  }
  if (!has_rows || sending.empty()) return;
  if (pins.capacity) {
    *pairs = std::move(sending);
  } else if (keeps_turns(plans, sending[0])) {
    pairs->insert(pairs->end(), sending.begin(), sending.end());
  }
}

// Leaves out pipelines with more virtual stages than forward has stretches.
void keep_stages(Evaluator& plans, std::vector<Pair>* pairs) {
  const Pins& pins = plans.pins();
  const int32_t chunks = pins.chunks.value_or(1);
  const auto is_pipeline = [](const Pair& pair) { return pair.stages > 1; };
  const auto fewest = std::find_if(pairs->begin(), pairs->end(), is_pipeline);
  if (fewest == pairs->end()) return;
  const int32_t stages = fewest->stages, stretches = plans.recorded(*fewest).stretches();
  const auto has_too_many = [&](const Pair& pair) {
    return is_pipeline(pair) && int64_t{pair.stages} * chunks > plans.recorded(pair).stretches();
  };
  pairs->erase(std::remove_if(pairs->begin(), pairs->end(), has_too_many), pairs->end());
  if (std::any_of(pairs->begin(), pairs->end(), is_pipeline)) return;
  const std::string words = chunks == 1   ? concat("pp=", stages)
                            : pins.stages ? concat("pp=", stages, ",chunks=", chunks)
                                          : concat("chunks=", chunks);
  throw Error(Phase::kConfig, concat(words, " cannot be: forward has ", stretches, " stretches, too few for ",
                                     int64_t{stages} * chunks, " virtual stages"))
      .hint(stretches < stages ? concat("would work: pp of at most ", stretches)
                               : concat("would work: chunks of at most ", stretches / stages));
}

}  // namespace

std::vector<Pair> pairs_to_try(Evaluator& plans) {
  const Pins& pins = plans.pins();
  check_pipeline(pins, plans.cluster());
  std::vector<Pair> pairs = !pins.axes.empty() || pins.saved
                                ? std::vector<Pair>{pinned_pair(pins, plans.cluster())}
                                : all_pairs(plans);
  if (pairs.empty() || (pins.stages && *pins.stages > plans.base().stretches())) {
    throw Error(Phase::kConfig, concat("pp=", pins.stages.value_or(1), " cannot be: forward has ",
                                       plans.base().stretches(), " stretches, ", plans.cluster().name,
                                       " has ", plans.cluster().device_count(), " devices"))
        .hint("would work: a divisor of the devices, of at most as many stages as stretches");
  }
  send_rows_too(plans, &pairs);
  keep_stages(plans, &pairs);
  if (pins.random) pairs = {pairs[*pins.random % pairs.size()]};
  return pairs;
}

}  // namespace moai::plan
