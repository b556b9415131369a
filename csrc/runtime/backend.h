#pragma once

#include <memory>
#include <string>
#include <vector>

#include "compile/program.h"
#include "runtime/communicator.h"
#include "runtime/device.h"
#include "runtime/run.h"

namespace moai::runtime {

// A program made ready for one device. Used by one thread at a time.
class Executable {
 public:
  virtual ~Executable() = default;

  // Runs it once. `inputs` and `numbers` by position in the graph; an input is dropped (set to
  // null) after its last use, so that its memory is free when nobody else holds it. Fills
  // `outputs`, by graph output; a null entry is one that nobody wants any more.
  //
  // Throws what an op threw, with the op, its types and the user's line added. Donated inputs
  // that had been written by then have no block.
  virtual void run(std::vector<CellPtr>& inputs, const std::vector<Number>& numbers,
                   const std::vector<CellPtr>& outputs) = 0;
};

// What computes on one device.
class Backend {
 public:
  virtual ~Backend() = default;
  // `lines`: by Node::origin, the user's line of an op, for error messages.
  virtual std::unique_ptr<Executable> load(std::shared_ptr<const compile::Program> program,
                                           std::shared_ptr<const std::vector<std::string>> lines) = 0;
  // Of the device's memory: what its programs work in, and keep between runs.
  virtual int64_t arena_bytes() const { return 0; }
  // Whether its programs' graphs should have their groups fused (compile/fuse/groups.h).
  virtual bool fuses() const { return false; }
  // Called first on the worker's thread.
  virtual void attach() {}
};
using MakeBackend = std::unique_ptr<Backend> (*)(Device& device, Transport* transport);

}  // namespace moai::runtime
