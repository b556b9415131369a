#pragma once

#include <vector>

#include "compile/local/local_builder.h"
#include "compile/local/parts.h"
#include "ops/rule.h"
#include "plan/mesh.h"

namespace moai::compile {

// One step of bringing a value to another placement: along one axis, or along several at once for an
// all-reduce of partial sums.
struct ConvertStep {
  plan::Change change;
  std::vector<int64_t> axes;
  plan::Split from, to;
};

// The steps from one placement to another, whose change along each axis is possible.
//
// Where several axes divide one atom, the inner ones cut the outer ones' parts: an axis can only be taken off
// an atom from the inside and put on from the outside. What convert_seconds counts by axis is what comes out,
// but for axes that stand between another axis and its place: they are gathered and cut again. What makes the
// value smaller goes first.
std::vector<ConvertStep> convert_steps(const plan::Placement& from, const plan::Placement& to);

// Whether that takes sums over devices, all or some, and does nothing else: no device has more bytes
// afterwards.
bool only_sums(const plan::Placement& from, const plan::Placement& to);

// How a value's parts that are no sum make the whole, by axis (of those where it is kReduced).
struct Reduction {
  ops::Combine how = ops::Combine::kSum;
  int64_t size = 0;           // of the atom that is divided
  std::vector<int64_t> axes;  // which divide it, up to this one
};

// Writes the steps on one device. `value` lies as `from` says; `type` is the whole value's, `whole` its
// atoms. `weight` is the value that a weighted mean is by, as partial as `value` is reduced, or kNone.
ir::ValueId convert(LocalBuilder& builder, const Place& place, ir::ValueId value, const ir::Type& type,
                    const LeafSizes& whole, const plan::Placement& from, const plan::Placement& to,
                    const std::vector<Reduction>& reductions, ir::ValueId weight);

}  // namespace moai::compile
