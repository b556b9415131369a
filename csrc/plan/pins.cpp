#include "plan/pins.h"

#include <algorithm>
#include <cstdlib>
#include <set>

#include "ir/error.h"
#include "plan/plan_file.h"

namespace moai::plan {

namespace {

[[noreturn]] void refuse(const std::string& word, const std::string& why) {
  throw Error(Phase::kConfig, concat("`", word, "` in the pins ", why))
      .hint(
          "would work: dp=8,tp=2,pp=1,micro=4,zero=1,recompute=full; also copies, sp, ep, experts, capacity, "
          "offload, chunks, order, sends, gathers, random");
}

int32_t number_of(const std::string& word, const std::string& text, int64_t least) {
  char* end = nullptr;
  const long long number = std::strtoll(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || number < least || number > (1 << 20))
    refuse(word, concat("needs a number from ", least));
  return static_cast<int32_t>(number);
}

void read_word(const std::string& word, Pins* pins) {
  const size_t equals = word.find('=');
  if (equals == std::string::npos) refuse(word, "has no value");
  const std::string name = word.substr(0, equals), value = word.substr(equals + 1);
  const auto axis = [&](uint8_t splits) {
    const int32_t size = number_of(word, value, 1);
    if (size > 1) pins->axes.push_back({name, size, splits, name == "copies"});
  };
  if (name == "copies") return axis(role_bit(Role::kBatch));
  if (name == "dp") return axis(role_bit(Role::kBatch));
  if (name == "sp") return axis(role_bit(Role::kSequence));
  // What has no experts in it is split by samples there, as expert parallelism lies inside of data
  // parallelism (Lepikhin et al. 2020).
  if (name == "ep") return axis(role_bit(Role::kExpert) | role_bit(Role::kBatch));
  // Between contractions tensor parallelism may split positions too (Korthikanti et al. 2022).
  if (name == "tp") return axis(role_bit(Role::kFeature) | role_bit(Role::kSequence));
  if (name == "pp") {
    pins->stages = number_of(word, value, 1);
  } else if (name == "chunks") {
    pins->chunks = number_of(word, value, 1);
  } else if (name == "micro") {
    pins->micro_batches = number_of(word, value, 1);
  } else if (name == "zero") {
    pins->zero = number_of(word, value, 0);
    if (*pins->zero > 3) refuse(word, "is no stage of ZeRO: 0, 1, 2 or 3");
  } else if (name == "capacity") {
    char* end = nullptr;
    pins->capacity = std::strtod(value.c_str(), &end);
    const bool is_one = !value.empty() && *end == '\0' && (*pins->capacity == 0 || *pins->capacity >= 1);
    if (!is_one || *pins->capacity > kMostCapacity)
      refuse(word, concat("needs a number from 1 to ", kMostCapacity, ", or 0"));
  } else if (name == "random") {
    pins->random = static_cast<uint64_t>(number_of(word, value, 0));
  } else if (name == "recompute") {
    pins->recompute = parse_recompute(value);
  } else if (name == "offload") {
    pins->offload = parse_offload(value);
  } else if (name == "order") {
    for (const auto order : {Order::kGPipe, Order::k1F1B, Order::kZeroBubble}) {
      if (value == order_name(order)) pins->order = order;
    }
    if (!pins->order) refuse(word, "is no order: gpipe, 1f1b or zero_bubble");
  } else if (name == "sends") {
    if (value != "whole" && value != "parts") refuse(word, "is no way to send: whole or parts");
    pins->sends = value == "parts" ? Sends::kInParts : Sends::kWhole;
  } else if (name == "gathers") {
    if (value != "once" && value != "ahead") refuse(word, "is no time to gather: once or ahead");
    pins->gathers = value == "ahead" ? Gathers::kAhead : Gathers::kAtOnce;
  } else {
    refuse(word, "is not known");
  }
}

// `sp+tp`: the axes that have experts besides what they split otherwise.
void place_experts(const std::string& names, Pins* pins) {
  size_t at = 0;
  while (at <= names.size()) {
    const size_t plus = std::min(names.find('+', at), names.size());
    const std::string name = names.substr(at, plus - at);
    const auto axis = std::find_if(pins->axes.begin(), pins->axes.end(),
                                   [&](const AxisPin& pin) { return pin.name == name; });
    if (axis == pins->axes.end() || axis->copies)
      refuse(concat("experts=", names), concat("needs axes that are pinned in parts: `", name, "` is none"));
    axis->splits |= role_bit(Role::kExpert);
    at = plus + 1;
  }
}

// What a random plan is, whatever its seed.
void settle_random(Pins* pins) {
  if (pins->stages.value_or(1) != 1 || pins->micro_batches.value_or(1) != 1 ||
      pins->recompute.value_or(Recompute::kNone) != Recompute::kNone ||
      pins->offload.value_or(Offload::kNone) != Offload::kNone)
    refuse(concat("random=", *pins->random),
           "has one stage, its batch at once, and all that it made at hand");
  pins->stages = 1;
  pins->micro_batches = 1;
  pins->recompute = Recompute::kNone;
  pins->offload = Offload::kNone;
}

// Axes that only samples are split along.
bool is_for_samples(const AxisPin& pin) { return pin.splits == role_bit(Role::kBatch); }

}  // namespace

Pins parse_pins(const std::string& text) {
  Pins pins;
  std::set<std::string> names;
  std::string experts;
  size_t at = 0;
  while (at < text.size()) {
    const size_t comma = std::min(text.find(',', at), text.size());
    const std::string word = text.substr(at, comma - at);
    if (!names.insert(word.substr(0, word.find('='))).second) refuse(word, "is there twice");
    if (word.rfind("experts=", 0) == 0) {
      experts = word.substr(word.find('=') + 1);
    } else {
      read_word(word, &pins);
    }
    at = comma + 1;
  }
  if (names.count("experts") > 0) place_experts(experts, &pins);
  if (pins.random) settle_random(&pins);
  return pins;
}

Pins settled(Pins pins) {
  if (!pins.saved) return pins;
  const OuterChoice& outer = pins.saved->outer;
  pins.axes.clear();
  for (size_t a = 0; a < outer.mesh.size(); ++a)
    pins.axes.push_back({concat("mesh axis ", a), outer.mesh[a], outer.splits[a], false});
  pins.stages = outer.stages;
  pins.chunks = outer.chunks;
  pins.micro_batches = outer.micro_batches;
  pins.recompute = outer.recompute;
  pins.offload = outer.offload;
  pins.order = outer.order;
  pins.capacity = outer.capacity;
  return pins;
}

Pair pinned_pair(const Pins& pins, const Cluster& cluster) {
  int64_t devices = 1;
  Pair pair;
  for (const auto& axis : pins.axes) {
    devices *= axis.size;
    pair.sizes.push_back(axis.size);
    pair.splits.push_back(axis.splits);
  }
  const int64_t all = cluster.device_count();
  const int64_t stages = pins.stages.value_or(devices > 0 && all % devices == 0 ? all / devices : 1);
  if (devices * stages != all) {
    throw Error(Phase::kConfig, concat("the pinned axes and ", stages, " stage(s) take ", devices * stages,
                                       " devices, and ", cluster.name, " has ", all))
        .hint("would work: sizes whose product is the number of devices");
  }
  pair.stages = static_cast<int32_t>(stages);
  return pair;
}

void check_pipeline(const Pins& pins, const Cluster& cluster) {
  const bool has_chunks = pins.chunks.value_or(1) > 1;
  if (pins.saved || (!pins.order && !has_chunks)) return;
  const bool may_have_stages = cluster.device_count() > 1 && pins.stages.value_or(2) > 1 &&
                               (pins.axes.empty() || pinned_pair(pins, cluster).stages > 1);
  if (may_have_stages) return;
  throw Error(Phase::kConfig,
              concat(pins.order ? concat("order=", order_name(*pins.order)) : concat("chunks=", *pins.chunks),
                     " cannot be: it is of a pipeline, and as pinned ", cluster.name, " has one stage"))
      .hint("would work: pp=2 or more with it, or neither");
}

namespace {

// Whether what one of so many turns has of the batch has a part for each device along axes of samples.
bool has_parts(const Pins& pins, const Step& step, int32_t turns) {
  // Of each atom of the batch, how many parts it may still be split in.
  std::vector<int64_t> left{step.time.size / turns};
  for (size_t a = 1; a < step.time.atoms.size(); ++a)
    left.push_back(step.frame.atoms.size(step.time.atoms[a]));
  for (const auto& pin : pins.axes) {
    if (!is_for_samples(pin)) continue;
    const auto most = std::max_element(left.begin(), left.end());
    if (*most < pin.size) return false;
    *most /= pin.size;
  }
  return true;
}

}  // namespace

bool leaves_parts(const Pins& pins, const Step& step, int32_t turns) {
  const bool may_idle = turns == 1 && pins.may_idle;
  return pins.saved || may_idle || step.time.size == 0 || has_parts(pins, step, turns);
}

void check_turns(const Pins& pins, const Step& step, int32_t turns) {
  if (leaves_parts(pins, step, turns)) return;
  int64_t batch = step.time.size, parts = 1;
  for (size_t a = 1; a < step.time.atoms.size(); ++a) batch *= step.frame.atoms.size(step.time.atoms[a]);
  std::string words;
  for (const auto& pin : pins.axes) {
    if (!is_for_samples(pin)) continue;
    parts *= pin.size;
    words += concat(words.empty() ? "" : ",", pin.name, "=", pin.size);
  }
  if (turns > 1) words += concat(",micro=", turns);
  int32_t most = turns - 1;
  while (most > 0 && (step.time.size % most != 0 || !has_parts(pins, step, most))) --most;
  throw Error(Phase::kPlan, concat(words, " cannot be: a batch of ", batch, " cannot be split in ", parts,
                                   " parts", turns > 1 ? concat(" and ", turns, " turns") : ""))
      .hint(concat("would work: ", most > 0 ? concat("micro=", most) : "fewer parts", ", or a batch of ",
                   parts * turns));
}

bool is_for_experts(const AxisPin& pin) { return (pin.splits & role_bit(Role::kExpert)) != 0; }

namespace {

bool splits_something(const AxisPin& pin, const AxisUse& use) {
  return is_for_experts(pin) ? use.expert > 0 : use.whole < 1 - 1e-9;
}

}  // namespace

bool uses_axes(const Pins& pins, const std::vector<AxisUse>& uses) {
  for (size_t a = 0; a < pins.axes.size() && !pins.saved; ++a) {
    if (!splits_something(pins.axes[a], uses[a])) return false;
  }
  return true;
}

void check_axes(const Pins& pins, const Step& step, const std::vector<AxisUse>& uses) {
  if (pins.saved) return;  // what an entry splits is checked by itself
  for (size_t a = 0; a < pins.axes.size(); ++a) {
    const AxisPin& pin = pins.axes[a];
    if (splits_something(pin, uses[a])) continue;
    ir::NodeId largest = 0;
    for (ir::NodeId n = 0; n < static_cast<ir::NodeId>(step.graph.nodes().size()); ++n) {
      if (step.frame.rules[n].flops > step.frame.rules[largest].flops) largest = n;
    }
    int64_t size = 0;
    std::string name = "no dimension";
    for (size_t f = 0; f < step.frame.node_factors[largest].size(); ++f) {
      for (const auto atom : step.frame.node_factors[largest][f]) {
        const Role role = step.roles.of_atom[atom];
        if ((pin.splits & role_bit(role)) == 0 || (is_for_experts(pin) && role != Role::kExpert)) continue;
        if (step.frame.atoms.size(atom) <= size) continue;
        size = step.frame.atoms.size(atom);
        name = concat("dimension ", step.frame.rules[largest].factors[f].name, " of ", size);
      }
    }
    throw Error(Phase::kPlan, concat(pin.name, "=", pin.size, " splits nothing: ",
                                     step.graph.node(largest).op.str(), " has ", name, " for it"))
        .hint(size > 1 ? concat("would work: ", pin.name, " of at most ", size) : "would work: without it");
  }
}

}  // namespace moai::plan
