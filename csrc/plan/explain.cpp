#include "plan/explain.h"

#include "plan/live_bytes.h"
#include "plan/pipeline_cost.h"
#include "plan/plan_file.h"

namespace moai::plan {

namespace {

Terms terms_of(const OuterChoice& outer) {
  Terms terms;
  terms.stages = outer.stages;
  terms.turns = outer.micro_batches;
  return terms;
}

}  // namespace

std::vector<MemoryPart> memory_parts(const StepPlan& found, const Cluster& cluster) {
  const Candidate& best = found.best();
  const Cluster even = cluster.evened();
  return memory_parts(*found.step, *found.turn, Mesh::make(even, best.outer.mesh, best.outer.splits),
                      terms_of(best.outer), best.assignment);
}

Explanation explain(const StepPlan& found, const Cluster& cluster) {
  const Candidate& best = found.best();
  Explanation out;
  if (!best.fits) {
    out.memory = memory_parts(found, cluster);
    return out;
  }
  const OuterChoice& outer = best.outer;
  const Step& step = *found.step;
  const Frame& turn = *found.turn;
  const Cluster even = cluster.evened();
  const Mesh mesh = Mesh::make(even, outer.mesh, outer.splits);
  const Terms terms = terms_of(outer);
  out.tensors = tensor_groups(step, mesh, best.axes, best.assignment);
  out.saved = save_plan(step, outer, best.assignment);
  out.breakdown = breakdown(step, turn, mesh, terms, best.assignment);
  if (outer.stages > 1) {
    const auto line = stretches(step, turn, mesh, best.assignment);
    out.picture = pipeline_cost(line, outer, even, static_cast<double>(even.smallest_memory()), true).picture;
  } else {
    out.picture = picture_of(step, Timeline(step, turn, mesh, best.assignment),
                             whole(step, turn, mesh, terms, best.assignment), outer.micro_batches,
                             live_bytes(step, turn, mesh, terms, best.assignment));
  }
  return out;
}

}  // namespace moai::plan
