#pragma once

#include "plan/mesh.h"
#include "plan/step.h"

namespace moai::plan {

// Seconds that no plan comes below that sends a batch in `turns` parts through a pipeline of `stages` (1:
// there is none), each of `devices`, with up to `chunks` virtual stages on each. `turn` is the frame of one
// part.
//
// Every node is split perfectly, nothing is sent, and then, with the work A of all turns, the forward F of
// one turn and the share x of the last stage: that stage starts when one turn has come through the forward of
// the others' first chunks, so it ends after x A + (1 - x) F / chunks; another stage has at least (1 - x) A /
// (stages - 1). The larger of the two is least where they are equal. The optimizer's work is shared by all.
double least_pipeline_seconds(const Step& step, const Frame& turn, const Cluster& cluster, int32_t turns,
                              int32_t stages, int32_t devices, int32_t chunks);

}  // namespace moai::plan
