#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Storage.h>

#include <cstdint>
#include <vector>

#include "compile/program.h"
#include "runtime/cell.h"
#include "runtime/device.h"

namespace moai::aten {

// The memory that a program's arena buffers live in. One for all programs of the device, since
// they run one after the other; it grows to the largest, or, where memory is limited, is of the size that the
// running one needs.
class Arena {
 public:
  explicit Arena(runtime::MemoryPool& pool) : pool_(pool) {}
  void* reserve(int64_t bytes);
  int64_t bytes() const { return block_ == nullptr ? 0 : block_->bytes; }

 private:
  runtime::MemoryPool& pool_;
  runtime::BlockPtr block_;
};

// The memory behind one buffer of a program, as a storage whose pointer moves.
struct Slot {
  c10::Storage storage;
  c10::Device device = at::kCPU;
  runtime::BlockPtr block;  // pool memory, for outputs and for programs without an arena
  at::Tensor adopted;       // a kernel's own result that lies elsewhere
  void* home = nullptr;     // where the program wants it
  void* now = nullptr;      // where it lies: `home`, or the adopted result

  void point_at(void* data);
  void adopt(const at::Tensor& result);
  void disown();

 private:
  void show(void* data);
};

// The memory of a program's buffers on one device: taken when an instruction first needs it, given back after
// the last one, whether the run ends well or not.
class Buffers {
 public:
  // `program`, `device` and `arena` outlive it.
  Buffers(const compile::Program& program, runtime::Device& device, Arena& arena, c10::Device torch_device);

  Slot& operator[](int32_t buffer) { return slots_[buffer]; }
  const Slot& operator[](int32_t buffer) const { return slots_[buffer]; }

  // Before a run: points at the inputs and at the arena. Throws OutOfMemory.
  void bind(const std::vector<runtime::CellPtr>& inputs);
  // Before and after an instruction. `begin` throws OutOfMemory, before the first instruction that writes an
  // input also where what follows would not find room.
  void begin(size_t instruction, const std::vector<runtime::CellPtr>& inputs);
  void end(size_t instruction, std::vector<runtime::CellPtr>& inputs);
  // After the last one: gives the outputs what they hold.
  void hand_over(std::vector<runtime::CellPtr>& inputs, const std::vector<runtime::CellPtr>& outputs);
  // After a failure when so many instructions had begun: gives back memory, and takes away inputs that were
  // written.
  void abandon(size_t begun, const std::vector<runtime::CellPtr>& inputs);

 private:
  void plan_lifetimes();
  bool is_placed(const compile::Buffer& buffer) const;
  void check_room_for_the_rest(const std::vector<runtime::CellPtr>& inputs) const;

  const compile::Program& program_;
  runtime::Device& device_;
  Arena& arena_;
  void* base_ = nullptr;
  std::vector<Slot> slots_;                   // by buffer
  std::vector<std::vector<int32_t>> begins_;  // buffers to allocate before an instruction
  std::vector<std::vector<int32_t>> ends_;    // buffers to free after it
  std::vector<int32_t> first_write_;          // by buffer: the first instruction that writes it
  size_t point_of_no_return_ = SIZE_MAX;      // the first instruction that writes to an input, or the barrier
};

}  // namespace moai::aten
