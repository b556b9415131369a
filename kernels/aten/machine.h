#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/stack.h>
#include <c10/core/Device.h>
#include <c10/core/DispatchKey.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "compile/fuse/emit.h"
#include "ir/error.h"
#include "kernels/aten/sampler.h"
#include "runtime/communicator.h"

namespace moai::aten {

// A kernel of ours in the place of an ATen operator: takes the operator's arguments from the stack and leaves
// its returns.
using Kernel = std::function<void(torch::jit::Stack& stack)>;

// A fused kernel, compiled for a device.
class CompiledKernel {
 public:
  virtual ~CompiledKernel() = default;
  virtual void launch(const compile::Launch& launch) = 0;
};

// What one device has that ATen does not offer for every kind in one way. Used on the worker's thread, but
// for making it.
class Machine {
 public:
  virtual ~Machine() = default;

  virtual c10::Device device() const = 0;
  virtual c10::DispatchKey dispatch_key() const = 0;

  // Called first on the worker's thread: from here on its ops run on this device, and its kernels' results go
  // where the program wants them (see Note [Where a result goes]).
  virtual void attach() = 0;
  // For an op by its name in graphs, as `aten.mm`. Null: the operator itself serves.
  virtual Kernel kernel(const std::string& op) const = 0;
  // Null: there is none.
  virtual Sampler sampler(const std::string& op) const = 0;
  // In which language fused kernels are wanted; nothing: none are.
  virtual std::optional<compile::Target> fuses() const { return std::nullopt; }
  // The kernel of such a text. Throws Error(Phase::kCompile) with what the compiler said.
  virtual std::shared_ptr<CompiledKernel> compile(const std::string& text) {
    throw Error(Phase::kCompile, "this device compiles nothing, not even " + text);
  }

  // Begins a copy between the device and the host's memory beside it, after all ops so far; later ops do not
  // wait for it before the work is waited for or dropped. Null: the device has nothing that copies beside its
  // ops, and nothing was begun.
  virtual runtime::WorkPtr begin_copy(const at::Tensor&, const at::Tensor&) { return nullptr; }

  // Returns when all that was begun has been computed. Throws what a kernel reported meanwhile.
  virtual void finish() = 0;
};

}  // namespace moai::aten
