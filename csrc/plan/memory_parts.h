#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "plan/assign.h"

namespace moai::plan {

// What values of one kind take of a device at the fullest moment of a step.
struct MemoryPart {
  enum class Kind { kWeights, kStates, kData, kGradients, kActivations, kWorking };
  Kind kind = Kind::kWorking;
  std::string op;    // that makes them; empty of inputs
  std::string type;  // of each, whole
  int32_t count = 0;
  double bytes = 0;  // on the device, of all; in a pipeline the mean over stages
};
const char* memory_kind_name(MemoryPart::Kind kind);

// At the moment that an assignment says is the fullest, largest first; where nothing fits, as that has it.
std::vector<MemoryPart> memory_parts(const Step& step, const Frame& turn, const Mesh& mesh,
                                     const Terms& terms, const Assignment& assignment);

// The largest few of them: `states 64 x bf16[14336,4096], 7.0 GiB; activations 2 x bf16[8,512] of
// aten.mm, 16.0 KiB`.
std::string memory_text(const std::vector<MemoryPart>& parts, size_t most);

}  // namespace moai::plan
