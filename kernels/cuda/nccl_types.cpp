#include "kernels/cuda/nccl_types.h"

#include <cstring>
#include <exception>

namespace moai::cuda {

using ir::DType;
using runtime::Reduce;

namespace {

std::optional<ncclDataType_t> real_type(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kC128: return ncclFloat64;
    case DType::kF32:
    case DType::kC64: return ncclFloat32;
    case DType::kF16:
    case DType::kC32: return ncclFloat16;
    case DType::kBF16: return ncclBfloat16;
    case DType::kI64: return ncclInt64;
    case DType::kU64: return ncclUint64;
    case DType::kI32: return ncclInt32;
    case DType::kU32: return ncclUint32;
    case DType::kI8: return ncclInt8;
    case DType::kU8:
    case DType::kBool: return ncclUint8;
    default: return std::nullopt;
  }
}

ncclRedOp_t op_of(Reduce reduce) {
  switch (reduce) {
    case Reduce::kSum: return ncclSum;
    case Reduce::kProduct: return ncclProd;
    case Reduce::kMax: return ncclMax;
    case Reduce::kMin: return ncclMin;
    case Reduce::kMean: return ncclAvg;
  }
  return ncclSum;
}

}  // namespace

std::optional<NcclReduction> nccl_reduction(DType dtype, Reduce reduce) {
  const auto type = real_type(dtype);
  if (!type) return std::nullopt;
  if (dtype == DType::kBool) {
    // Of 0 and 1 "or" is the larger, "and" the smaller.
    const bool is_or = reduce == Reduce::kSum || reduce == Reduce::kMax;
    if (reduce == Reduce::kMean) return std::nullopt;
    return NcclReduction{*type, is_or ? ncclMax : ncclMin, 1};
  }
  const bool is_complex = dtype == DType::kC32 || dtype == DType::kC64 || dtype == DType::kC128;
  if (is_complex && reduce != Reduce::kSum && reduce != Reduce::kMean) return std::nullopt;
  return NcclReduction{*type, op_of(reduce), is_complex ? 2 : 1};
}

Error nccl_error(ncclResult_t result, const std::string& doing, const std::string& last) {
  Error error(Phase::kRun, concat("NCCL fails while it ", doing, ": ", ncclGetErrorString(result)));
  if (!last.empty()) error.detail("it said last: " + last);
  switch (result) {
    case ncclSystemError:
    case ncclRemoteError:
      error.hint("would help: look at the other devices' errors, and NCCL_DEBUG=WARN in the environment");
      break;
    default: error.hint("would tell more: NCCL_DEBUG=WARN in the environment");
  }
  return error;
}

}  // namespace moai::cuda

// For tests, which have no GPU: NCCL's numbers for a type and for a reduction, and how many of them an
// element is; 0 where NCCL has none.
extern "C" __attribute__((visibility("default"))) int moai_nccl_reduction(int dtype, int reduce, int* type,
                                                                          int* op) {
  const auto found = moai::cuda::nccl_reduction(static_cast<moai::ir::DType>(dtype),
                                                static_cast<moai::runtime::Reduce>(reduce));
  if (!found) return 0;
  *type = found->type;
  *op = found->op;
  return found->parts;
}

// The text of an error.
extern "C" __attribute__((visibility("default"))) void moai_nccl_error(int result, const char* doing,
                                                                       const char* last, char* text,
                                                                       size_t text_bytes) {
  const auto error = moai::cuda::nccl_error(static_cast<ncclResult_t>(result), doing, last);
  std::strncpy(text, error.what(), text_bytes - 1);
  text[text_bytes - 1] = '\0';
}
