#include "kernels/aten/stand_in.h"

#include <ATen/core/Tensor.h>

#include "kernels/aten/attention.h"
#include "kernels/aten/norms.h"

namespace moai::aten {

Kernel stand_in(const std::string& op) {
  Kernel attention = attention_kernel(op);
  return attention ? attention : norm_kernel(op);
}

std::optional<at::Tensor> tensor_or_none(const at::IValue& value) {
  return value.isNone() || !value.toTensor().defined() ? std::nullopt
                                                       : std::optional<at::Tensor>(value.toTensor());
}

bool is_half(at::ScalarType dtype) { return dtype == at::kHalf || dtype == at::kBFloat16; }

}  // namespace moai::aten
