#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "plan/assign.h"

namespace moai::plan {

// What one axis of the mesh does, in words and in shares of the step's FLOPs.
struct AxisUse {
  int32_t size = 1;
  std::string name;      // "data", "sequence", "expert", "tensor", "whole": what most FLOPs are split by
  double data = 0;       // by the batch
  double sequence = 0;   // by positions in a sample
  double expert = 0;     // by experts of a grouped product
  double tensor = 0;     // by features, heads, vocabulary
  double whole = 0;      // not at all
  double states_in = 1;  // in how many parts the axis has weights and states, on average by bytes
};
std::vector<AxisUse> axis_uses(const Step& step, const Mesh& mesh, const Assignment& assignment);

// Where the inputs of one kind lie, the most bytes first.
struct TensorGroup {
  std::string type;  // "bf16[4096,14336]"
  InputRole role = InputRole::kWeight;
  int32_t count = 0;
  double bytes = 0;       // of all, whole
  std::string placement;  // by axis: "data: shard dim 0; tensor: replicate"
};
std::vector<TensorGroup> tensor_groups(const Step& step, const Mesh& mesh, const std::vector<AxisUse>& axes,
                                       const Assignment& assignment);

}  // namespace moai::plan
