#include <algorithm>

#include "compile/local/convert.h"
#include "ir/error.h"

namespace moai::compile {

namespace {

using plan::Change;
using plan::Placement;
using plan::Split;
using K = Split::Kind;

class Steps {
 public:
  Steps(const Placement& from, const Placement& to) : at_(from), to_(to) {}

  std::vector<ConvertStep> all() {
    // Means and norms of parts are joined from the inside.
    for (size_t a = at_.size(); a-- > 0;) {
      if (at_[a].kind == K::kReduced) take(a, {K::kReplicate});
    }
    while (next()) {
    }
    MOAI_ASSERT(at_ == to_, "a conversion does not end where it should");
    return std::move(steps_);
  }

 private:
  // Takes the step that makes most of the value smaller first. False at the end.
  bool next() {
    return first([&](size_t a) { return at_[a].kind == K::kReplicate && can_add(a); }) ||
           first([&](size_t a) { return at_[a].kind == K::kPartial && can_add(a); }) ||
           last([&](size_t a) { return can_remove(a) && can_add(a); }) ||
           last([&](size_t a) { return can_remove(a) && to_[a].kind == K::kPartial; }) ||
           first([&](size_t a) { return at_[a].kind == K::kPartial && to_[a].kind == K::kReplicate; }) ||
           last_gather() ||
           first([&](size_t a) { return at_[a].kind == K::kReplicate && to_[a].kind == K::kPartial; });
  }

  template <typename Can>
  bool first(const Can& can) {
    for (size_t a = 0; a < at_.size(); ++a) {
      if (can(a)) return take(a, to_[a]);
    }
    return false;
  }

  template <typename Can>
  bool last(const Can& can) {
    for (size_t a = at_.size(); a-- > 0;) {
      if (can(a)) return take(a, to_[a]);
    }
    return false;
  }

  bool last_gather() {
    for (size_t a = at_.size(); a-- > 0;) {
      if (can_remove(a)) return take(a, {K::kReplicate});
    }
    return false;
  }

  static std::vector<int64_t> axes(const Placement& placement, const Split& split) {
    return axes_of(placement, split.dim, split.leaf);
  }

  // Whether the axis can be put on its atom now: the axes that divide it are those outside this one.
  bool can_add(size_t a) const {
    if (to_[a].kind != K::kShard || at_[a] == to_[a]) return false;
    auto wanted = axes(to_, to_[a]);
    wanted.resize(static_cast<size_t>(std::find(wanted.begin(), wanted.end(), static_cast<int64_t>(a)) -
                                      wanted.begin()));
    return axes(at_, to_[a]) == wanted;
  }

  // Whether the axis must come off its atom, and can: it is the innermost, and not among those that stay.
  bool can_remove(size_t a) const {
    if (at_[a].kind != K::kShard) return false;
    const auto now = axes(at_, at_[a]), wanted = axes(to_, at_[a]);
    size_t stay = 0;
    while (stay < now.size() && stay < wanted.size() && now[stay] == wanted[stay]) ++stay;
    return now.size() > stay && now.back() == static_cast<int64_t>(a);
  }

  bool take(size_t a, const Split& to) {
    const auto axis = static_cast<int64_t>(a);
    ConvertStep step{plan::change_of(at_[a], to), {axis}, at_[a], to};
    const bool sums = step.change == Change::kAllReduce && step.from.kind == K::kPartial;
    if (sums && !steps_.empty() && steps_.back().change == step.change && steps_.back().from == step.from) {
      steps_.back().axes.push_back(axis);
    } else {
      steps_.push_back(std::move(step));
    }
    at_[a] = to;
    return true;
  }

  Placement at_;
  const Placement& to_;
  std::vector<ConvertStep> steps_;
};

}  // namespace

std::vector<ConvertStep> convert_steps(const Placement& from, const Placement& to) {
  return Steps(from, to).all();
}

bool only_sums(const Placement& from, const Placement& to) {
  for (size_t a = 0; a < from.size(); ++a) {
    if (from[a] != to[a] && (from[a].kind != K::kPartial || to[a].kind == K::kReduced)) return false;
  }
  // An axis that stands between a sum's and its place is gathered and cut again.
  const auto steps = convert_steps(from, to);
  return !steps.empty() && std::all_of(steps.begin(), steps.end(),
                                       [](const ConvertStep& step) { return step.from.kind == K::kPartial; });
}

}  // namespace moai::compile
