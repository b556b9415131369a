#include "compile/local/local_values.h"

#include <limits>
#include <utility>

#include "ir/error.h"
#include "ops/traits.h"

namespace moai::compile {

using ir::ValueId;
using plan::Placement;

namespace {

bool gathers(const Placement& from, const Placement& to) {
  for (size_t a = 0; a < from.size(); ++a) {
    if (from[a].kind == plan::Split::Kind::kShard && to[a].kind == plan::Split::Kind::kReplicate) return true;
  }
  return false;
}

}  // namespace

LocalValues::LocalValues(const SplitStep& step, const Place& place, LocalBuilder& builder)
    : step_(step),
      whole_(step.graph),
      place_(place),
      b_(builder),
      at_(whole_.values().size()),
      in_turn_(static_cast<size_t>(step.loop.turns)) {}

void LocalValues::add(ValueId value, const Placement& placement, ValueId local) {
  places(value).push_back({placement, local, kForever});
}

void LocalValues::add_whole(ValueId value, const Placement& placement, ValueId local) {
  at_[value].push_back({placement, local, kForever});
}

// Where the value is found now.
std::vector<LocalValues::There>& LocalValues::places(ValueId value) {
  if (turn_ == kNoTurn || !step_.in_loop(value)) return at_[value];
  auto& here = in_turn_[turn_][value];
  if (here.empty() && whole_.value(value).producer == ir::kNone)
    here.push_back({step_.produced(value), slice_of_turn(value), kForever});
  return here;
}

// Of a gathered weight: the turn and the section in which it was gathered.
int32_t LocalValues::scope() const {
  return (turn_ == kNoTurn ? step_.loop.turns : turn_) * SplitStep::kSections + section_;
}

ValueId LocalValues::bring(ValueId value, const Placement& to) {
  const auto sizes = plan::leaf_sizes(step_.frame, value);
  double least = std::numeric_limits<double>::infinity();
  const There* best = nullptr;
  auto& there = places(value);
  for (const auto& place : there) {
    if (place.scope != kForever && place.scope != scope()) continue;
    if (place.placement == to) return place.local;
    const double cost = plan::convert_seconds(whole_, step_.frame, value, place.placement, to, step_.mesh);
    if (cost >= least) continue;
    least = cost;
    best = &place;
  }
  if (best == nullptr) {
    const auto producer = whole_.value(value).producer;
    Error error(moai::Phase::kCompile,
                concat("the plan asks for %", value,
                       step_.frame.own_order[value] < 0
                           ? " as a partial sum, and reduces it otherwise"
                           : ", whose rows are in an order of their own, where these rows are not"));
    if (producer != ir::kNone) error.detail(ir::print(whole_, producer));
    throw Error(error);
  }
  const Placement from = best->placement;
  const ValueId converted = convert(b_, place_, best->local, whole_.type(value), sizes, from, to,
                                    reductions(value), weight_of(value));
  const bool is_weight = whole_.value(value).producer == ir::kNone && !step_.has_turns(value);
  places(value).push_back({to, converted, is_weight && gathers(from, to) ? scope() : kForever});
  return converted;
}

// A part cut out of a dense value is not dense. Views and pointwise ops do not mind; others may count on
// what they were recorded with, and get a copy, one for all of them.
ValueId LocalValues::bring_to(const ir::Node& node, ValueId value, const Placement& to) {
  const ValueId local = bring(value, to);
  const bool minds = node.op.str().rfind("moai.", 0) != 0 && !ops::traits(node.op).pointwise;
  if (!minds || !whole_.type(value).is_dense() || b_.type(local).is_dense()) return local;
  const auto [it, is_new] = dense_.emplace(local, ir::kNone);
  if (is_new) it->second = dense(value, local);
  return it->second;
}

ValueId LocalValues::bring_dense(ValueId value, const Placement& to) {
  return dense(value, bring(value, to));
}

ValueId LocalValues::bring_to_send(ValueId value, const Placement& to) {
  return whole_.type(value).is_dense() ? bring_dense(value, to) : b_.contiguous(bring(value, to));
}

ValueId LocalValues::dense(ValueId whole, ValueId local) {
  const ir::Type& type = whole_.type(whole);
  return type.is_dense() ? b_.dense(local, memory_order(type)) : local;
}

ir::Type LocalValues::type_of(ValueId value, const Placement& placement) const {
  const ir::Type& whole = whole_.type(value);
  ir::Dims sizes = sizes_of(parts_of(place_, plan::leaf_sizes(step_.frame, value), placement));
  return whole.is_dense() ? dense_like(whole, std::move(sizes))
                          : ir::Type::contiguous(whole.dtype, std::move(sizes));
}

// How a value of a node is reduced, by axis.
std::vector<Reduction> LocalValues::reductions(ValueId value) const {
  const auto& v = whole_.value(value);
  if (v.producer == ir::kNone) return {};
  const auto& choices = step_.assignment.nodes[v.producer].choices;
  std::vector<Reduction> all(choices.size());
  for (size_t a = 0; a < choices.size(); ++a) {
    if (choices[a].kind != plan::AxisChoice::Kind::kFactor) continue;
    const auto atom = step_.frame.node_factors[v.producer][choices[a].factor][choices[a].leaf];
    all[a].how = step_.frame.rules[v.producer].combine[v.index][choices[a].factor];
    all[a].size = step_.frame.atoms.size(atom);
    for (size_t outer = 0; outer <= a; ++outer) {
      const bool same = choices[outer].kind == choices[a].kind &&
                        choices[outer].factor == choices[a].factor && choices[outer].leaf == choices[a].leaf;
      if (same) all[a].axes.push_back(static_cast<int64_t>(outer));
    }
  }
  return all;
}

// What a mean over parts is weighted by: the node's next result, as the node left it.
ValueId LocalValues::weight_of(ValueId value) {
  const auto& v = whole_.value(value);
  if (v.producer == ir::kNone) return ir::kNone;
  const auto& results = whole_.node(v.producer).results;
  const auto next = static_cast<size_t>(v.index) + 1;
  if (next >= results.size()) return ir::kNone;
  const auto& there = places(results[next]);
  return there.empty() ? ir::kNone : there.front().local;
}

ir::Type LocalValues::input_type(ValueId input) const {
  const ir::Type& whole = whole_.type(input);
  Placement placement = step_.produced(input);
  const auto leaves = with_turns(step_.frame, input, step_.loop, &placement);
  ir::Dims sizes = sizes_of(parts_of(place_, leaves, placement));
  return sizes == whole.sizes ? whole : dense_like(whole, std::move(sizes));
}

LocalValues::Turned LocalValues::turned(ValueId value, const Placement& placement) const {
  const Turn any = step_.loop.turn();
  const auto parts = parts_of(place_, plan::leaf_sizes(step_.frame, value), placement);
  Turned found;
  for (size_t d = 0; d < parts.size(); ++d) {
    const int64_t leaf = any.leaf_of(step_.frame.value_dims[value][d]);
    if (leaf < 0) continue;
    found.dim = static_cast<int64_t>(d);
    for (size_t k = 0; k < parts[d].size(); ++k)
      (static_cast<int64_t>(k) < leaf ? found.outer : found.inner) *= parts[d][k].length;
  }
  return found;
}

// What this turn has of an input.
ValueId LocalValues::slice_of_turn(ValueId input) {
  const Turned t = turned(input, step_.produced(input));
  ValueId x = at_[input].front().local;
  if (t.outer == 1) return b_.slice(x, t.dim, turn_ * t.inner, t.inner);
  ir::Dims open = b_.type(x).sizes;
  ir::Dims merged = open;
  open[t.dim] = t.inner;
  open.insert(open.begin() + t.dim, {t.outer, step_.loop.turns});
  merged[t.dim] = t.outer * t.inner;
  return b_.reshape(b_.slice(b_.reshape(x, open), t.dim + 1, turn_, 1), merged);
}

ValueId LocalValues::joined(ValueId value, const Placement& placement, const std::vector<ValueId>& turns) {
  const Turned t = turned(value, placement);
  std::vector<ValueId> parts;
  for (const ValueId part : turns) {
    ir::Dims open = b_.type(part).sizes;
    open[t.dim] = t.inner;
    open.insert(open.begin() + t.dim, {t.outer, 1});
    parts.push_back(b_.reshape(part, open));
  }
  ir::Dims merged = b_.type(turns[0]).sizes;
  merged[t.dim] *= step_.loop.turns;
  return dense(value, b_.reshape(b_.concatenate(parts, t.dim + 1), merged));
}

}  // namespace moai::compile
