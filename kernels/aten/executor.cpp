#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <unordered_set>
#include <utility>

#include "compile/largest_values.h"
#include "compile/program.h"
#include "compile/waits.h"
#include "ir/error.h"
#include "kernels/aten/backend.h"
#include "kernels/aten/buffers.h"
#include "kernels/aten/call.h"
#include "kernels/aten/placement.h"
#include "runtime/groups.h"
#include "runtime/profiler.h"

namespace moai::aten {

namespace {

using compile::Access;
using compile::Buffer;
using compile::Instruction;
using compile::Program;
using runtime::CellPtr;
using runtime::Number;

// What the programs of one device share.
struct Context {
  Context(std::unique_ptr<Machine> machine_in, runtime::Device& device_in, runtime::Transport* transport)
      : machine(std::move(machine_in)),
        device(device_in),
        arena(device_in.memory),
        groups(transport, device_in.index) {}
  const std::unique_ptr<Machine> machine;
  runtime::Device& device;
  Arena arena;
  runtime::Groups groups;
};

class AtenExecutable final : public runtime::Executable {
 public:
  AtenExecutable(std::shared_ptr<const Program> program,
                 std::shared_ptr<const std::vector<std::string>> lines, Context& context)
      : program_(std::move(program)),
        lines_(std::move(lines)),
        context_(context),
        buffers_(*program_, context.device, context.arena, context.machine->device()) {
    make_tensors();
    for (const auto& instruction : program_->instructions) {
      exchanges_.push_back(make_exchange(instruction));
      calls_.push_back(exchanges_.back() ? nullptr : make_call(instruction));
    }
    const auto& instructions = program_->instructions;
    works_.resize(instructions.size());
    waits_.resize(instructions.size());
    for (size_t i = 0; i < instructions.size(); ++i) {
      const int32_t after = instructions[i].wait_after;
      if (after > static_cast<int32_t>(i)) waits_[after].push_back(i);
    }
  }

  void run(std::vector<CellPtr>& inputs, const std::vector<Number>& numbers,
           const std::vector<CellPtr>& outputs) override {
    buffers_.bind(inputs);
    for (const auto& dynamic : dynamic_offsets_) {
      dynamic.tensor.unsafeGetTensorImpl()->set_storage_offset(numbers[dynamic.number].i);
    }
    const auto& instructions = program_->instructions;
    for (size_t i = 0; i < instructions.size(); ++i) {
      size_t begun = i;
      try {
        buffers_.begin(i, inputs);
        begun = i + 1;
        step_with_room(i, numbers);
        wait_behind(i);
      } catch (c10::Error& error) {
        abandon(begun, inputs);
        error.add_context(where(instructions[i]));
        if (dynamic_cast<c10::OutOfMemoryError*>(&error) != nullptr) error.add_context(largest(i));
        throw;
      } catch (OutOfMemory& error) {
        abandon(begun, inputs);
        error.detail(where(instructions[i]));
        error.detail(largest(i));
        throw;
      } catch (...) {
        abandon(begun, inputs);
        throw;
      }
      buffers_.end(i, inputs);
    }
    finish(inputs);
    buffers_.hand_over(inputs, outputs);
  }

 private:
  struct Dynamic {
    at::Tensor tensor;
    int32_t number;
  };

  at::Tensor make_tensor(const Access& access) {
    const auto key = is_on_host(access) ? c10::DispatchKey::CPU : context_.machine->dispatch_key();
    auto impl = c10::make_intrusive<c10::TensorImpl>(
        c10::Storage(buffers_[access.buffer].storage), c10::DispatchKeySet(key),
        c10::scalarTypeToTypeMeta(static_cast<at::ScalarType>(access.type.dtype)));
    impl->set_sizes_and_strides(access.type.sizes, access.type.strides, access.offset);
    return at::Tensor(std::move(impl));
  }

  bool is_on_host(const Access& access) const {
    return program_->buffers[access.buffer].home == Buffer::Home::kHost;
  }

  void make_tensors() {
    for (const auto& access : program_->accesses) {
      tensors_.push_back(make_tensor(access));
      if (access.offset_number != compile::kNone)
        dynamic_offsets_.push_back({tensors_.back(), access.offset_number});
    }
  }

  std::unique_ptr<Call> make_call(const Instruction& instruction) {
    if (instruction.kind != Instruction::Kind::kCall || is_check_of_slots(instruction)) return nullptr;
    std::vector<at::Tensor> operands;
    for (const int32_t access : instruction.operands) {
      operands.push_back(access == compile::kNone ? at::Tensor() : tensors_[access]);
    }
    return std::make_unique<Call>(program_->graph.node(instruction.node), program_->graph, operands,
                                  *context_.machine);
  }

  // Of a collective, a bucket, a message or the barrier: nothing of other instructions.
  std::optional<runtime::BoundCollective> make_exchange(const Instruction& instruction) {
    if (program_->mesh.empty() || instruction.kind != Instruction::Kind::kCall) return std::nullopt;
    if (compile::is_barrier(*program_, instruction))
      return runtime::BoundCollective{&context_.groups.everyone(), {{runtime::Collective::barrier()}}};
    return context_.groups.bind(program_->graph, instruction.node, program_->mesh);
  }

  // What the device computes by itself may fail after its ops have returned.
  void finish(const std::vector<CellPtr>& inputs) {
    try {
      context_.machine->finish();
    } catch (c10::Error& error) {
      abandon(program_->instructions.size(), inputs);
      error.add_context("while moai waited for a step on " + context_.device.name +
                        "; which op it was is told with CUDA_LAUNCH_BLOCKING=1 in the environment");
      throw;
    }
  }

  // What a kernel lacks may be what the pool keeps for re-use, where both take from one stock.
  void step_with_room(size_t i, const std::vector<Number>& numbers) {
    try {
      return step(i, numbers);
    } catch (const c10::OutOfMemoryError&) {
      const auto stats = context_.device.memory.stats();
      if (stats.reserved_bytes == stats.live_bytes || writes_operands(program_->instructions[i])) throw;
    }
    context_.device.memory.trim();
    step(i, numbers);
  }

  // Then it may have begun to, and cannot run again.
  bool writes_operands(const Instruction& instruction) const {
    if (instruction.kind == Instruction::Kind::kCopy) return false;
    const ir::Node& node = program_->graph.node(instruction.node);
    for (size_t r = 0; r < node.results.size(); ++r) {
      if (node.tied_operand(r) != ir::kNone) return true;
    }
    return false;
  }

  void step(size_t i, const std::vector<Number>& numbers) {
    const Instruction& instruction = program_->instructions[i];
    const bool is_copy = instruction.kind == Instruction::Kind::kCopy;
    const runtime::Span span(runtime::Profiler::Lane::kDevice,
                             is_copy ? "copy" : program_->graph.node(instruction.node).op.str().c_str());
    if (is_copy) return copy(i);
    if (exchanges_[i]) return exchange(i, *exchanges_[i]);
    if (calls_[i] == nullptr) return check_slots(tensors_[instruction.operands[0]]);
    const ir::Node& node = program_->graph.node(instruction.node);
    Call& call = *calls_[i];
    {
      PlacementScope placement(context_.machine->device().type());
      for (size_t r = 0; r < instruction.results.size(); ++r) {
        if (node.tied_operand(r) != ir::kNone) continue;
        const int32_t b = program_->accesses[instruction.results[r]].buffer;
        placement.place(buffers_[b].now, static_cast<size_t>(program_->buffers[b].bytes));
      }
      call.run(numbers);
    }
    take_results(instruction, node, call);
    call.clear();
  }

  bool is_check_of_slots(const Instruction& instruction) const {
    static const ir::Symbol check = ir::Symbol::intern("moai.check_slots");
    return instruction.kind == Instruction::Kind::kCall && program_->graph.node(instruction.node).op == check;
  }

  // By device that rows go to: how many there are more than slots.
  static void check_slots(const at::Tensor& excess) {
    const auto most = excess.max().item<int64_t>();
    if (most > 0) throw OutOfSlots(most);
  }

  void copy(size_t i) {
    const Instruction& instruction = program_->instructions[i];
    const int32_t from = instruction.operands[0], to = instruction.results[0];
    if (is_on_host(program_->accesses[from]) || is_on_host(program_->accesses[to]))
      works_[i] = context_.machine->begin_copy(tensors_[to], tensors_[from]);
    if (works_[i] == nullptr) {
      tensors_[to].copy_(tensors_[from]);
    } else if (instruction.wait_after <= static_cast<int32_t>(i)) {
      std::exchange(works_[i], nullptr)->wait();
    }
  }

  void exchange(size_t i, runtime::BoundCollective& bound) {
    const Instruction& instruction = program_->instructions[i];
    for (size_t o = 0; o < instruction.operands.size(); ++o)
      bound.bucket[o].in = tensors_[instruction.operands[o]].const_data_ptr();
    for (size_t r = 0; r < instruction.results.size(); ++r)
      bound.bucket[r].out = tensors_[instruction.results[r]].mutable_data_ptr();
    if (instruction.wait_after > static_cast<int32_t>(i)) {
      works_[i] = bound.group->start(bound.bucket);
    } else {
      context_.groups.run(bound);
    }
  }

  void wait_behind(size_t i) {
    for (const size_t started : waits_[i]) {
      if (const auto work = std::exchange(works_[started], nullptr)) work->wait();
    }
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
      // What backward needs is recorded as the CPU keeps it: elsewhere there may be more, or it may be wider.
      if (wanted.numel() == 0 && got.device() == context_.machine->device()) continue;
      if (got.numel() == 0 && wanted.numel() != 0) {
        // A CPU kernel that has nothing to save (batch norm in evaluation) where others save zeros.
        wanted.zero_();
        continue;
      }
      TORCH_CHECK(is_of_type(got, wanted) && got.sizes() == wanted.sizes(), node.op.str(), " returned ",
                  got.scalar_type(), got.sizes(), " where its meta kernel said ", wanted.scalar_type(),
                  wanted.sizes());
      const Slot& slot = buffers_[program_->accesses[access].buffer];
      if (got.numel() == 0 || (got.scalar_type() == wanted.scalar_type() &&
                               got.const_data_ptr() == slot.now && got.strides() == wanted.strides()))
        continue;
      elsewhere.push_back(k);
    }
    if (elsewhere.empty()) return;
    // A result that lies in the memory of another one, or of an operand, is moved out first.
    std::unordered_set<const void*> ours;
    for (const int32_t access : instruction.operands) {
      if (access != compile::kNone) ours.insert(buffers_[program_->accesses[access].buffer].now);
    }
    for (const int32_t access : instruction.results)
      ours.insert(buffers_[program_->accesses[access].buffer].now);
    for (const size_t k : elsewhere) {
      if (ours.count(returned[k].storage().data()) > 0) returned[k] = returned[k].clone();
    }
    for (const size_t k : elsewhere) {
      const int32_t access = instruction.results[fresh[k]];
      Slot& slot = buffers_[program_->accesses[access].buffer];
      const at::Tensor& got = returned[k];
      const bool fits = got.scalar_type() == tensors_[access].scalar_type() &&
                        got.device() == context_.machine->device() &&
                        got.strides() == tensors_[access].strides() && got.storage_offset() == 0 &&
                        got.storage().use_count() <= 2 && !adopts_in_place(instruction, access);
      if (!fits) {
        tensors_[access].copy_(got);
        continue;
      }
      slot.adopt(got);
    }
  }

  // A device's kernel may keep floating point wider than the CPU's, which is what was recorded.
  bool is_of_type(const at::Tensor& got, const at::Tensor& wanted) const {
    if (got.scalar_type() == wanted.scalar_type()) return true;
    return !context_.machine->device().is_cpu() && at::isFloatingType(got.scalar_type()) &&
           at::isFloatingType(wanted.scalar_type());
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

  // After a failure when so many instructions had begun.
  void abandon(size_t begun, const std::vector<CellPtr>& inputs) {
    context_.groups.abandon();
    for (auto& work : works_) work.reset();
    try {
      context_.machine->finish();  // what was begun may still read and write what is given back below
    } catch (const c10::Error&) {  // the step has its error
    }
    buffers_.abandon(begun, inputs);
    for (const auto& call : calls_) {
      if (call != nullptr) call->clear();
    }
  }

  std::string largest(size_t i) const {
    constexpr size_t kMost = 3;
    std::string text;
    for (const auto& value : compile::largest_values(*program_, i, kMost, lines_.get()))
      text += (text.empty() ? "largest values then: " : "; ") + value;
    return text;
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
  Buffers buffers_;
  std::vector<at::Tensor> tensors_;  // by access
  std::vector<Dynamic> dynamic_offsets_;
  std::vector<std::unique_ptr<Call>> calls_;                        // by instruction
  std::vector<std::optional<runtime::BoundCollective>> exchanges_;  // by instruction
  std::vector<runtime::WorkPtr> works_;     // by instruction: collectives and copies on their way
  std::vector<std::vector<size_t>> waits_;  // by instruction: those waited for behind it
};

class AtenBackend final : public runtime::Backend {
 public:
  AtenBackend(std::unique_ptr<Machine> machine, runtime::Device& device, runtime::Transport* transport)
      : context_(std::move(machine), device, transport) {}

  std::unique_ptr<runtime::Executable> load(std::shared_ptr<const Program> program,
                                            std::shared_ptr<const std::vector<std::string>> lines) override {
    return std::make_unique<AtenExecutable>(std::move(program), std::move(lines), context_);
  }

  int64_t arena_bytes() const override { return context_.arena.bytes(); }
  bool fuses() const override { return context_.machine->fuses().has_value(); }

  void attach() override {
    context_.machine->attach();
    // For the life of the thread: nothing here is differentiated.
    static thread_local at::AutoDispatchBelowADInplaceOrView below;
    c10::GradMode::set_enabled(false);
  }

 private:
  Context context_;
};

}  // namespace

std::unique_ptr<runtime::Backend> make_backend(std::unique_ptr<Machine> machine, runtime::Device& device,
                                               runtime::Transport* transport) {
  return std::make_unique<AtenBackend>(std::move(machine), device, transport);
}

}  // namespace moai::aten
