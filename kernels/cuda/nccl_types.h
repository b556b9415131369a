#pragma once

#include <nccl.h>

#include <optional>
#include <string>

#include "runtime/communicator.h"

namespace moai::cuda {

// How NCCL is told to reduce. Elements count `parts` each: a complex number is two real ones.
struct NcclReduction {
  ncclDataType_t type = ncclFloat32;
  ncclRedOp_t op = ncclSum;
  int parts = 1;
};
// Nothing where NCCL has no such reduction: of 16-bit and of 8-bit floating numbers, products of complex
// ones. What is only moved needs no type, and goes as bytes.
std::optional<NcclReduction> nccl_reduction(ir::DType dtype, runtime::Reduce reduce);

// What went wrong, and what can be done about it: `NCCL: remote process exited … (last told: …)`. `last`:
// what NCCL said last, which may be empty.
Error nccl_error(ncclResult_t result, const std::string& doing, const std::string& last);

}  // namespace moai::cuda
