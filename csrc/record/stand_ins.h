#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/stack.h>

#include <functional>

#include "record/op_schema.h"

namespace moai::record {

// A call's arguments on other devices than ours, to find out without running it what the call would do.

// The arguments with each tensor replaced by `each(tensor, argument)`, devices by `device` and generators by
// one that is nobody's.
using StandIn = std::function<at::Tensor(const at::Tensor&, size_t argument)>;
torch::jit::Stack with_tensors(const OpSchema& op, at::ArrayRef<at::IValue> args, c10::Device device,
                               const StandIn& each);

// The arguments on the CPU with zeros for values: pages that nobody has touched cost no memory. LAPACK
// takes pivots as they are and counts them from one. A tensor that comes twice stays one.
torch::jit::Stack on_zeros(const OpSchema& op, at::ArrayRef<at::IValue> args);

// Runs the op below autograd on such a stack, which receives what it returns.
void call_on(const OpSchema& op, torch::jit::Stack& stack);

// Whether the CPU may be asked: not where the tensors would not fit.
bool fits_on_cpu(at::ArrayRef<at::IValue> args);

// Throws what the CPU throws where a call writes to memory that it also reads, but for the part that is the
// very tensor. Of all that a call is, only this depends on offsets, which are numbers: asked at every call.
// Costs nothing to ops that write nothing.
void refuse_overlap(const OpSchema& op, at::ArrayRef<at::IValue> args);

template <typename Each>
void for_each_tensor(at::ArrayRef<at::IValue> args, const Each& each) {
  for (const auto& value : args) {
    if (value.isTensor()) {
      each(value.toTensor());
    } else if (value.isList()) {
      for (const auto& element : value.toListRef()) {
        if (!element.isTensor()) break;
        each(element.toTensor());
      }
    }
  }
}

}  // namespace moai::record
