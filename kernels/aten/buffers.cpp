#include "kernels/aten/buffers.h"

#include <c10/core/StorageImpl.h>

#include <algorithm>
#include <utility>

#include "compile/waits.h"
#include "ir/error.h"

namespace moai::aten {

using compile::Buffer;
using compile::Program;
using runtime::BlockPtr;
using runtime::Cell;
using runtime::CellPtr;
using runtime::MemoryPool;

void* Arena::reserve(int64_t bytes) {
  if (block_ == nullptr || block_->bytes < bytes || (pool_.has_limit() && block_->bytes > bytes)) {
    block_.reset();
    pool_.trim();
    block_ = pool_.allocate(bytes);
  }
  return block_->data;
}

void Slot::point_at(void* data) {
  home = data;
  show(data);
}

void Slot::show(void* data) {
  now = data;
  storage.unsafeGetStorageImpl()->set_data_ptr_noswap(c10::DataPtr(data, device));
}

void Slot::adopt(const at::Tensor& result) {
  adopted = result;
  show(result.mutable_data_ptr());
}

void Slot::disown() {
  if (!adopted.defined()) return;
  adopted.reset();
  show(home);
}

Buffers::Buffers(const Program& program, runtime::Device& device, Arena& arena, c10::Device torch_device)
    : program_(program), device_(device), arena_(arena) {
  for (const auto& buffer : program.buffers) {
    Slot slot;
    slot.device = buffer.home == Buffer::Home::kHost ? c10::Device(at::kCPU) : torch_device;
    slot.storage = c10::Storage(c10::make_intrusive<c10::StorageImpl>(
        c10::StorageImpl::use_byte_size_t(), buffer.bytes, c10::DataPtr(nullptr, slot.device),
        /*allocator=*/nullptr, /*resizable=*/false));
    slots_.push_back(std::move(slot));
  }
  plan_lifetimes();
}

bool Buffers::is_placed(const Buffer& buffer) const {
  return buffer.home == Buffer::Home::kArena && program_.has_arena;
}

void Buffers::plan_lifetimes() {
  begins_.resize(program_.instructions.size());
  ends_.resize(program_.instructions.size());
  std::vector<bool> handed_over(program_.buffers.size(), false);
  for (const int32_t b : program_.output_buffers) handed_over[b] = true;
  for (size_t b = 0; b < program_.buffers.size(); ++b) {
    const Buffer& buffer = program_.buffers[b];
    if (buffer.first == compile::kNone) continue;
    const bool needs_memory = buffer.home != Buffer::Home::kInput && !is_placed(buffer);
    if (needs_memory) begins_[buffer.first].push_back(static_cast<int32_t>(b));
    if (!handed_over[b]) ends_[buffer.last].push_back(static_cast<int32_t>(b));
  }
  first_write_.assign(program_.buffers.size(), compile::kNone);
  for (size_t i = 0; i < program_.instructions.size(); ++i) {
    for (const int32_t access : program_.instructions[i].results) {
      auto& first = first_write_[program_.accesses[access].buffer];
      if (first == compile::kNone) first = static_cast<int32_t>(i);
    }
  }
  for (size_t b = 0; b < program_.buffers.size(); ++b) {
    if (program_.buffers[b].home == Buffer::Home::kInput && first_write_[b] != compile::kNone)
      point_of_no_return_ = std::min(point_of_no_return_, static_cast<size_t>(first_write_[b]));
  }
  // Where other devices may write their inputs, all that can fail here must have been seen before.
  for (size_t i = 0; i < program_.instructions.size(); ++i) {
    if (compile::is_barrier(program_, program_.instructions[i])) point_of_no_return_ = i;
  }
}

void Buffers::bind(const std::vector<CellPtr>& inputs) {
  for (size_t b = 0; b < slots_.size(); ++b) {
    const Buffer& buffer = program_.buffers[b];
    if (buffer.home != Buffer::Home::kInput || buffer.first == compile::kNone) continue;
    const CellPtr& cell = inputs[buffer.input];
    MOAI_ASSERT(cell != nullptr && cell->state.load(std::memory_order_acquire) == Cell::State::kReady,
                "input ", buffer.input, " is not there");
    MOAI_ASSERT(cell->block != nullptr || buffer.bytes == 0, "input ", buffer.input, " was given away");
    slots_[b].point_at(cell->block == nullptr ? nullptr : cell->block->data);
  }
  if (!program_.has_arena) return;
  void* base = arena_.reserve(program_.arena_bytes);
  if (base == base_) return;
  base_ = base;
  for (size_t b = 0; b < slots_.size(); ++b) {
    const Buffer& buffer = program_.buffers[b];
    if (!is_placed(buffer) || buffer.offset == compile::kNone) continue;
    slots_[b].point_at(static_cast<char*>(base) + buffer.offset);
  }
}

// With all that the rest of the program takes from the pool there, memory that runs out leaves the state as
// it was. (Other threads may still take what is seen to be free here.)
void Buffers::check_room_for_the_rest(const std::vector<CellPtr>& inputs) const {
  int64_t taken = 0;
  int64_t most = 0;
  for (size_t i = point_of_no_return_; i < begins_.size(); ++i) {
    for (const int32_t b : begins_[i]) {
      if (program_.buffers[b].home != Buffer::Home::kHost)
        taken += MemoryPool::size_of(program_.buffers[b].bytes);
    }
    most = std::max(most, taken);
    for (const int32_t b : ends_[i]) {
      const Buffer& buffer = program_.buffers[b];
      const bool is_freed = buffer.home == Buffer::Home::kInput ? inputs[buffer.input].use_count() == 1
                                                                : buffer.home != Buffer::Home::kHost;
      if (is_freed && !is_placed(buffer)) taken -= MemoryPool::size_of(buffer.bytes);
    }
  }
  device_.memory.check_room(most);
}

void Buffers::begin(size_t instruction, const std::vector<CellPtr>& inputs) {
  if (instruction == point_of_no_return_ && device_.memory.has_limit()) check_room_for_the_rest(inputs);
  for (const int32_t b : begins_[instruction]) {
    Slot& slot = slots_[b];
    const Buffer& buffer = program_.buffers[b];
    auto& pool = buffer.home == Buffer::Home::kHost ? device_.host_memory : device_.memory;
    slot.block = pool.allocate(buffer.bytes);
    slot.point_at(slot.block->data);
  }
}

void Buffers::end(size_t instruction, std::vector<CellPtr>& inputs) {
  for (const int32_t b : ends_[instruction]) {
    Slot& slot = slots_[b];
    slot.block.reset();
    slot.disown();
    const Buffer& buffer = program_.buffers[b];
    if (buffer.home == Buffer::Home::kInput) inputs[buffer.input].reset();
  }
}

void Buffers::hand_over(std::vector<CellPtr>& inputs, const std::vector<CellPtr>& outputs) {
  for (size_t o = 0; o < outputs.size(); ++o) {
    const int32_t b = program_.output_buffers[o];
    const Buffer& buffer = program_.buffers[b];
    Slot& slot = slots_[b];
    BlockPtr block;
    if (buffer.home == Buffer::Home::kInput) {
      block = std::move(inputs[buffer.input]->block);
    } else if (slot.adopted.defined()) {
      block = std::make_shared<runtime::Block>(
          slot.adopted.mutable_data_ptr(), buffer.bytes, [keep = slot.adopted]() mutable { keep.reset(); },
          device_.memory.source());
    } else {
      block = std::move(slot.block);
    }
    slot.block.reset();
    slot.disown();
    if (outputs[o] == nullptr) continue;
    outputs[o]->block = std::move(block);
    outputs[o]->state.store(Cell::State::kReady, std::memory_order_release);
  }
}

void Buffers::abandon(size_t begun, const std::vector<CellPtr>& inputs) {
  for (size_t b = 0; b < slots_.size(); ++b) {
    slots_[b].block.reset();
    slots_[b].disown();
    const Buffer& buffer = program_.buffers[b];
    const bool written = first_write_[b] != compile::kNone && first_write_[b] < static_cast<int32_t>(begun);
    if (buffer.home == Buffer::Home::kInput && written && inputs[buffer.input])
      inputs[buffer.input]->block.reset();
  }
}

}  // namespace moai::aten
