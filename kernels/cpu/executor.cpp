#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <thread>
#include <unordered_set>

#include "compile/program.h"
#include "ir/error.h"
#include "kernels/cpu/call.h"
#include "kernels/cpu/device.h"
#include "kernels/cpu/placement.h"
#include "kernels/cpu/torch_profiler.h"
#include "runtime/groups.h"
#include "runtime/profiler.h"

namespace moai::cpu {

namespace {

using compile::Access;
using compile::Buffer;
using compile::Instruction;
using compile::Program;
using runtime::BlockPtr;
using runtime::Cell;
using runtime::CellPtr;
using runtime::Number;

// The memory that a program's arena buffers live in. One for all programs of the device, since
// they run one after the other; it grows to the largest, or, where memory is limited, is of the size that the
// running one needs.
class Arena {
 public:
  explicit Arena(runtime::MemoryPool& pool) : pool_(pool) {}
  void* reserve(int64_t bytes) {
    if (block_ == nullptr || block_->bytes < bytes || (pool_.has_limit() && block_->bytes > bytes)) {
      block_.reset();
      pool_.trim();
      block_ = pool_.allocate(bytes);
    }
    return block_->data;
  }
  int64_t bytes() const { return block_ == nullptr ? 0 : block_->bytes; }

 private:
  runtime::MemoryPool& pool_;
  BlockPtr block_;
};

// What the programs of one device share.
struct Context {
  Context(runtime::Device& device_in, runtime::Transport* transport)
      : device(device_in), arena(device_in.memory), groups(transport, device_in.index) {}
  runtime::Device& device;
  Arena arena;
  runtime::Groups groups;
};

// The memory behind one buffer of the program, as a CPU storage whose pointer moves.
struct Slot {
  c10::Storage storage;
  BlockPtr block;        // pool memory, for outputs and for programs without an arena
  at::Tensor adopted;    // a kernel's own result that lies elsewhere
  void* home = nullptr;  // where the program wants it
  void* now = nullptr;   // where it lies: `home`, or the adopted result

  void point_at(void* data) {
    home = data;
    show(data);
  }
  void show(void* data) {
    now = data;
    storage.unsafeGetStorageImpl()->set_data_ptr_noswap(
        c10::DataPtr(data, c10::Device(c10::DeviceType::CPU)));
  }
  void adopt(const at::Tensor& result) {
    adopted = result;
    show(result.mutable_data_ptr());
  }
  void disown() {
    if (!adopted.defined()) return;
    adopted.reset();
    show(home);
  }
};

class CpuExecutable final : public runtime::Executable {
 public:
  CpuExecutable(std::shared_ptr<const Program> program, std::shared_ptr<const std::vector<std::string>> lines,
                Context& context)
      : program_(std::move(program)), lines_(std::move(lines)), context_(context) {
    make_slots();
    make_tensors();
    for (const auto& instruction : program_->instructions) {
      exchanges_.push_back(make_exchange(instruction));
      calls_.push_back(exchanges_.back() ? nullptr : make_call(instruction));
    }
    plan_lifetimes();
  }

  void run(std::vector<CellPtr>& inputs, const std::vector<Number>& numbers,
           const std::vector<CellPtr>& outputs) override {
    bind_inputs(inputs);
    if (program_->has_arena) bind_arena();
    for (const auto& dynamic : dynamic_offsets_) {
      dynamic.tensor.unsafeGetTensorImpl()->set_storage_offset(numbers[dynamic.number].i);
    }
    const auto& instructions = program_->instructions;
    for (size_t i = 0; i < instructions.size(); ++i) {
      size_t begun = i;
      try {
        if (i == point_of_no_return_ && context_.device.memory.has_limit()) check_room_for_the_rest(inputs);
        for (const int32_t b : begins_[i]) begin(b);
        begun = i + 1;
        step(i, numbers);
      } catch (c10::Error& error) {
        abandon(begun, inputs);
        error.add_context(where(instructions[i]));
        throw;
      } catch (OutOfMemory& error) {
        abandon(begun, inputs);
        error.detail(where(instructions[i]));
        throw;
      } catch (...) {
        abandon(begun, inputs);
        throw;
      }
      for (const int32_t b : ends_[i]) end(b, inputs);
    }
    hand_over(inputs, outputs);
  }

 private:
  struct Dynamic {
    at::Tensor tensor;
    int32_t number;
  };

  void make_slots() {
    for (const auto& buffer : program_->buffers) {
      Slot slot;
      slot.storage = c10::Storage(
          c10::make_intrusive<c10::StorageImpl>(c10::StorageImpl::use_byte_size_t(), buffer.bytes,
                                                c10::DataPtr(nullptr, c10::Device(c10::DeviceType::CPU)),
                                                /*allocator=*/nullptr, /*resizable=*/false));
      slots_.push_back(std::move(slot));
    }
  }

  at::Tensor make_tensor(const Access& access) {
    auto impl = c10::make_intrusive<c10::TensorImpl>(
        c10::Storage(slots_[access.buffer].storage), c10::DispatchKeySet(c10::DispatchKey::CPU),
        c10::scalarTypeToTypeMeta(static_cast<at::ScalarType>(access.type.dtype)));
    impl->set_sizes_and_strides(access.type.sizes, access.type.strides, access.offset);
    return at::Tensor(std::move(impl));
  }

  void make_tensors() {
    for (const auto& access : program_->accesses) {
      tensors_.push_back(make_tensor(access));
      if (access.offset_number != compile::kNone)
        dynamic_offsets_.push_back({tensors_.back(), access.offset_number});
    }
  }

  std::unique_ptr<Call> make_call(const Instruction& instruction) {
    if (instruction.kind != Instruction::Kind::kCall) return nullptr;
    std::vector<at::Tensor> operands;
    for (const int32_t access : instruction.operands) {
      operands.push_back(access == compile::kNone ? at::Tensor() : tensors_[access]);
    }
    return std::make_unique<Call>(program_->graph.node(instruction.node), program_->graph, operands);
  }

  bool is_barrier(const Instruction& instruction) const {
    static const ir::Symbol barrier = ir::Symbol::intern("moai.barrier");
    return instruction.kind == Instruction::Kind::kCall &&
           program_->graph.node(instruction.node).op == barrier;
  }

  // Of a collective or the barrier: nothing of other instructions.
  std::optional<runtime::BoundCollective> make_exchange(const Instruction& instruction) {
    if (program_->mesh.empty() || instruction.kind != Instruction::Kind::kCall) return std::nullopt;
    if (is_barrier(instruction))
      return runtime::BoundCollective{&context_.groups.everyone(), runtime::Collective::barrier()};
    return context_.groups.bind(program_->graph, instruction.node, program_->mesh);
  }

  bool is_placed(const Buffer& buffer) const {
    return buffer.home == Buffer::Home::kArena && program_->has_arena;
  }

  void plan_lifetimes() {
    begins_.resize(program_->instructions.size());
    ends_.resize(program_->instructions.size());
    std::vector<bool> handed_over(program_->buffers.size(), false);
    for (const int32_t b : program_->output_buffers) handed_over[b] = true;
    for (size_t b = 0; b < program_->buffers.size(); ++b) {
      const Buffer& buffer = program_->buffers[b];
      if (buffer.first == compile::kNone) continue;
      const bool needs_memory = buffer.home != Buffer::Home::kInput && !is_placed(buffer);
      if (needs_memory) begins_[buffer.first].push_back(static_cast<int32_t>(b));
      if (!handed_over[b]) ends_[buffer.last].push_back(static_cast<int32_t>(b));
    }
    first_write_.assign(program_->buffers.size(), compile::kNone);
    for (size_t i = 0; i < program_->instructions.size(); ++i) {
      for (const int32_t access : program_->instructions[i].results) {
        auto& first = first_write_[program_->accesses[access].buffer];
        if (first == compile::kNone) first = static_cast<int32_t>(i);
      }
    }
    for (size_t b = 0; b < program_->buffers.size(); ++b) {
      if (program_->buffers[b].home == Buffer::Home::kInput && first_write_[b] != compile::kNone)
        point_of_no_return_ = std::min(point_of_no_return_, static_cast<size_t>(first_write_[b]));
    }
    // Where other devices may write their inputs, all that can fail here must have been seen before.
    for (size_t i = 0; i < program_->instructions.size(); ++i) {
      if (is_barrier(program_->instructions[i])) point_of_no_return_ = i;
    }
  }

  void bind_inputs(const std::vector<CellPtr>& inputs) {
    for (size_t b = 0; b < slots_.size(); ++b) {
      const Buffer& buffer = program_->buffers[b];
      if (buffer.home != Buffer::Home::kInput || buffer.first == compile::kNone) continue;
      const CellPtr& cell = inputs[buffer.input];
      MOAI_ASSERT(cell != nullptr && cell->state.load(std::memory_order_acquire) == Cell::State::kReady,
                  "input ", buffer.input, " is not there");
      MOAI_ASSERT(cell->block != nullptr || buffer.bytes == 0, "input ", buffer.input, " was given away");
      slots_[b].point_at(cell->block == nullptr ? nullptr : cell->block->data);
    }
  }

  void bind_arena() {
    void* base = context_.arena.reserve(program_->arena_bytes);
    if (base == base_) return;
    base_ = base;
    for (size_t b = 0; b < slots_.size(); ++b) {
      const Buffer& buffer = program_->buffers[b];
      if (!is_placed(buffer) || buffer.offset == compile::kNone) continue;
      slots_[b].point_at(static_cast<char*>(base) + buffer.offset);
    }
  }

  // At the point of no return: with all that the rest of the program takes from the pool there,
  // memory that runs out leaves the state as it was. (Other threads may still take what is seen to be free
  // here.)
  void check_room_for_the_rest(const std::vector<CellPtr>& inputs) const {
    int64_t taken = 0;
    int64_t most = 0;
    for (size_t i = point_of_no_return_; i < begins_.size(); ++i) {
      for (const int32_t b : begins_[i]) taken += runtime::MemoryPool::size_of(program_->buffers[b].bytes);
      most = std::max(most, taken);
      for (const int32_t b : ends_[i]) {
        const Buffer& buffer = program_->buffers[b];
        const bool is_freed = buffer.home != Buffer::Home::kInput || inputs[buffer.input].use_count() == 1;
        if (is_freed && !is_placed(buffer)) taken -= runtime::MemoryPool::size_of(buffer.bytes);
      }
    }
    context_.device.memory.check_room(most);
  }

  void begin(int32_t b) {
    Slot& slot = slots_[b];
    slot.block = context_.device.memory.allocate(program_->buffers[b].bytes);
    slot.point_at(slot.block->data);
  }

  void end(int32_t b, std::vector<CellPtr>& inputs) {
    Slot& slot = slots_[b];
    slot.block.reset();
    slot.disown();
    const Buffer& buffer = program_->buffers[b];
    if (buffer.home == Buffer::Home::kInput) inputs[buffer.input].reset();
  }

  void step(size_t i, const std::vector<Number>& numbers) {
    const Instruction& instruction = program_->instructions[i];
    const bool is_copy = instruction.kind == Instruction::Kind::kCopy;
    const runtime::Span span(runtime::Profiler::Lane::kDevice,
                             is_copy ? "copy" : program_->graph.node(instruction.node).op.str().c_str());
    if (is_copy) {
      tensors_[instruction.results[0]].copy_(tensors_[instruction.operands[0]]);
      return;
    }
    if (exchanges_[i]) return exchange(instruction, *exchanges_[i]);
    const ir::Node& node = program_->graph.node(instruction.node);
    Call& call = *calls_[i];
    {
      PlacementScope placement;
      for (size_t r = 0; r < instruction.results.size(); ++r) {
        if (node.tied_operand(r) != ir::kNone) continue;
        const int32_t b = program_->accesses[instruction.results[r]].buffer;
        placement.place(slots_[b].now, static_cast<size_t>(program_->buffers[b].bytes));
      }
      call.run(numbers);
    }
    take_results(instruction, node, call);
    call.clear();
  }

  void exchange(const Instruction& instruction, const runtime::BoundCollective& bound) {
    const void* in =
        instruction.operands.empty() ? nullptr : tensors_[instruction.operands[0]].const_data_ptr();
    void* out = instruction.results.empty() ? nullptr : tensors_[instruction.results[0]].mutable_data_ptr();
    context_.groups.run(bound, in, out);
  }

  // Sees to it that each fresh result is what its access shows.
  void take_results(const Instruction& instruction, const ir::Node& node, Call& call) {
    std::vector<at::Tensor> returned = call.fresh_results();
    std::vector<size_t> fresh;
    for (size_t r = 0; r < instruction.results.size(); ++r) {
      if (node.tied_operand(r) == ir::kNone) fresh.push_back(r);
    }
    if (node.op.str() == "moai.undefined") return;
    TORCH_CHECK(returned.size() == fresh.size(), node.op.str(), " returned ", returned.size(),
                " tensors where its meta kernel said ", fresh.size());
    std::vector<size_t> elsewhere;
    for (size_t k = 0; k < fresh.size(); ++k) {
      const int32_t access = instruction.results[fresh[k]];
      const at::Tensor& wanted = tensors_[access];
      const at::Tensor& got = returned[k];
      if (got.numel() == 0 && wanted.numel() != 0) {
        // A CPU kernel that has nothing to save (batch norm in evaluation) where others save zeros.
        wanted.zero_();
        continue;
      }
      TORCH_CHECK(got.scalar_type() == wanted.scalar_type() && got.sizes() == wanted.sizes(), node.op.str(),
                  " returned ", got.scalar_type(), got.sizes(), " where its meta kernel said ",
                  wanted.scalar_type(), wanted.sizes());
      const Slot& slot = slots_[program_->accesses[access].buffer];
      if (got.numel() == 0 || (got.const_data_ptr() == slot.now && got.strides() == wanted.strides()))
        continue;
      elsewhere.push_back(k);
    }
    if (elsewhere.empty()) return;
    // A result that lies in the memory of another one, or of an operand, is moved out first.
    std::unordered_set<const void*> ours;
    for (const int32_t access : instruction.operands) {
      if (access != compile::kNone) ours.insert(slots_[program_->accesses[access].buffer].now);
    }
    for (const int32_t access : instruction.results)
      ours.insert(slots_[program_->accesses[access].buffer].now);
    for (const size_t k : elsewhere) {
      if (ours.count(returned[k].storage().data()) > 0) returned[k] = returned[k].clone();
    }
    for (const size_t k : elsewhere) {
      const int32_t access = instruction.results[fresh[k]];
      Slot& slot = slots_[program_->accesses[access].buffer];
      const at::Tensor& got = returned[k];
      const bool fits = got.strides() == tensors_[access].strides() && got.storage_offset() == 0 &&
                        got.storage().use_count() <= 2 && !adopts_in_place(instruction, access);
      if (!fits) {
        tensors_[access].copy_(got);
        continue;
      }
      slot.adopt(got);
    }
  }

  // The buffer is shared with an operand (an in-place pointwise op): its memory must stay.
  bool adopts_in_place(const Instruction& instruction, int32_t result) const {
    const int32_t buffer = program_->accesses[result].buffer;
    if (program_->buffers[buffer].home == Buffer::Home::kInput) return true;
    for (const int32_t access : instruction.operands) {
      if (access != compile::kNone && program_->accesses[access].buffer == buffer) return true;
    }
    return false;
  }

  void hand_over(std::vector<CellPtr>& inputs, const std::vector<CellPtr>& outputs) {
    for (size_t o = 0; o < outputs.size(); ++o) {
      const int32_t b = program_->output_buffers[o];
      const Buffer& buffer = program_->buffers[b];
      Slot& slot = slots_[b];
      BlockPtr block;
      if (buffer.home == Buffer::Home::kInput) {
        block = std::move(inputs[buffer.input]->block);
      } else if (slot.adopted.defined()) {
        block = std::make_shared<runtime::Block>(slot.adopted.mutable_data_ptr(), buffer.bytes,
                                                 [keep = slot.adopted]() mutable { keep.reset(); });
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

  // After a failure when so many instructions had begun: gives back memory, and takes away inputs that were
  // written.
  void abandon(size_t begun, const std::vector<CellPtr>& inputs) {
    context_.groups.abandon();
    for (size_t b = 0; b < slots_.size(); ++b) {
      slots_[b].block.reset();
      slots_[b].disown();
      const Buffer& buffer = program_->buffers[b];
      const bool written = first_write_[b] != compile::kNone && first_write_[b] < static_cast<int32_t>(begun);
      if (buffer.home == Buffer::Home::kInput && written && inputs[buffer.input])
        inputs[buffer.input]->block.reset();
    }
    for (const auto& call : calls_) {
      if (call != nullptr) call->clear();
    }
  }

  std::string on_device() const { return program_->mesh.empty() ? "" : ", on " + context_.device.name; }

  std::string where(const Instruction& instruction) const {
    if (instruction.node >= static_cast<ir::NodeId>(program_->graph.nodes().size()))
      return "while copying an output" + on_device();
    const ir::Node& node = program_->graph.node(instruction.node);
    std::string text = "while moai ran " + node.op.str() + "(";
    for (size_t i = 0; i < instruction.operands.size(); ++i) {
      if (i > 0) text += ", ";
      text += instruction.operands[i] == compile::kNone
                  ? "None"
                  : program_->accesses[instruction.operands[i]].type.str();
    }
    text += ")";
    if (lines_ != nullptr && node.origin >= 0 && !(*lines_)[node.origin].empty())
      text += ", called at " + (*lines_)[node.origin];
    return text + on_device();
  }

  std::shared_ptr<const Program> program_;
  std::shared_ptr<const std::vector<std::string>> lines_;
  Context& context_;
  void* base_ = nullptr;
  std::vector<Slot> slots_;          // by buffer
  std::vector<at::Tensor> tensors_;  // by access
  std::vector<Dynamic> dynamic_offsets_;
  std::vector<std::unique_ptr<Call>> calls_;                        // by instruction
  std::vector<std::optional<runtime::BoundCollective>> exchanges_;  // by instruction
  std::vector<std::vector<int32_t>> begins_;  // buffers to allocate before an instruction
  std::vector<std::vector<int32_t>> ends_;    // buffers to free after it
  std::vector<int32_t> first_write_;          // by buffer: the first instruction that writes it
  size_t point_of_no_return_ = SIZE_MAX;      // the first instruction that writes to an input, or the barrier
};

class CpuBackend final : public runtime::Backend {
 public:
  CpuBackend(runtime::Device& device, runtime::Transport* transport) : context_(device, transport) {}

  std::unique_ptr<runtime::Executable> load(std::shared_ptr<const Program> program,
                                            std::shared_ptr<const std::vector<std::string>> lines) override {
    return std::make_unique<CpuExecutable>(std::move(program), std::move(lines), context_);
  }

  int64_t arena_bytes() const override { return context_.arena.bytes(); }

  void attach() override {
    install_placing_allocator();
    mark_worker_thread();
    use_threads(context_.device.threads);
    // For the life of the thread: nothing here is differentiated.
    static thread_local at::AutoDispatchBelowADInplaceOrView below;
    c10::GradMode::set_enabled(false);
  }

 private:
  // Torch's number of threads is the calling thread's, and what threads that come later begin with: the
  // latter stays what the user set.
  static void use_threads(int threads) {
    const int others = at::get_num_threads();
    if (threads == others) return;
    at::set_num_threads(threads);
    std::thread([others] { at::set_num_threads(others); }).join();
  }

  Context context_;
};

}  // namespace

std::unique_ptr<runtime::Backend> make_backend(runtime::Device& device, runtime::Transport* transport) {
  return std::make_unique<CpuBackend>(device, transport);
}

}  // namespace moai::cpu
