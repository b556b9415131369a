// A backend that computes the made-up bytes of run_program.h, on memory of a pool, by the rules of
// backend.h: what an engine needs to show who gets which value when.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "compile/program.h"
#include "run_program.h"
#include "runtime/backend.h"

namespace moai::runtime {

// What the engine did; written by its worker, read when that has finished.
struct Journal {
  int attached = 0;
  std::vector<std::shared_ptr<const compile::Program>> loaded;
  std::vector<const compile::Program*> ran;
  MemoryPool pool;
};

// An op named `test.raise` throws.
class FakeExecutable : public Executable {
 public:
  FakeExecutable(std::shared_ptr<const compile::Program> program, std::shared_ptr<Journal> journal)
      : program_(std::move(program)), journal_(std::move(journal)) {}

  void run(std::vector<CellPtr>& inputs, const std::vector<Number>& numbers,
           const std::vector<CellPtr>& outputs) override {
    journal_->ran.push_back(program_.get());
    const BlockPtr arena = journal_->pool.allocate(program_->arena_bytes);
    std::vector<BlockPtr> blocks;
    for (const compile::Buffer& buffer : program_->buffers) blocks.push_back(home(buffer, arena, inputs));
    for (size_t i = 0; i < program_->instructions.size(); ++i) {
      step(program_->instructions[i], inputs, numbers, blocks);
      drop_inputs(static_cast<int32_t>(i), inputs, blocks);
    }
    for (size_t o = 0; o < outputs.size(); ++o) {
      if (outputs[o] == nullptr) continue;
      const int32_t b = program_->output_buffers[o];
      const int32_t input = program_->buffers[b].input;
      if (input != compile::kNone) inputs[input]->block = nullptr;
      outputs[o]->block = std::move(blocks[b]);
      outputs[o]->state.store(Cell::State::kReady, std::memory_order_release);
    }
  }

 private:
  using Home = compile::Buffer::Home;

  BlockPtr home(const compile::Buffer& buffer, const BlockPtr& arena, const std::vector<CellPtr>& inputs) {
    if (buffer.home == Home::kInput) return inputs[buffer.input] ? inputs[buffer.input]->block : nullptr;
    if (buffer.home != Home::kArena || !program_->has_arena) return journal_->pool.allocate(buffer.bytes);
    auto* data = static_cast<char*>(arena->data) + std::max<int64_t>(buffer.offset, 0);
    return std::make_shared<Block>(data, buffer.bytes, [keep = arena] {});
  }

  void drop_inputs(int32_t last_used_by, std::vector<CellPtr>& inputs, std::vector<BlockPtr>& blocks) {
    const auto& outputs = program_->output_buffers;
    for (size_t b = 0; b < blocks.size(); ++b) {
      const compile::Buffer& buffer = program_->buffers[b];
      if (buffer.home != Home::kInput || buffer.last != last_used_by) continue;
      if (std::count(outputs.begin(), outputs.end(), static_cast<int32_t>(b)) > 0) continue;
      inputs[buffer.input] = nullptr;
      blocks[b] = nullptr;
    }
  }

  void step(const compile::Instruction& instruction, const std::vector<CellPtr>& inputs,
            const std::vector<Number>& numbers, const std::vector<BlockPtr>& blocks) {
    const auto shown = [&](const std::vector<int32_t>& ids) {
      std::vector<compile::Shown> all;
      for (const int32_t id : ids) {
        const compile::Access& access = program_->accesses[id];
        const Block& block = *blocks[access.buffer];
        const bool fixed = access.offset_number == compile::kNone;
        all.push_back({static_cast<uint8_t*>(block.data), block.bytes, access.type,
                       fixed ? access.offset : numbers[access.offset_number].i});
      }
      return all;
    };
    const auto results = shown(instruction.results);
    const auto operands = shown(instruction.operands);
    const bool is_copy = instruction.kind == compile::Instruction::Kind::kCopy;
    if (!is_copy && program_->graph.node(instruction.node).op.str() == "test.raise") {
      throw std::runtime_error("boom");
    }
    for (const int32_t access : instruction.results) {
      const int32_t input = program_->buffers[program_->accesses[access].buffer].input;
      if (input != compile::kNone) inputs[input]->block = nullptr;  // no longer what it was
    }
    if (is_copy) return results[0].store(operands[0].elements());
    compile::run_op(program_->graph.node(instruction.node), operands, results);
  }

  std::shared_ptr<const compile::Program> program_;
  std::shared_ptr<Journal> journal_;
};

class FakeBackend : public Backend {
 public:
  explicit FakeBackend(std::shared_ptr<Journal> journal) : journal_(std::move(journal)) {}
  std::unique_ptr<Executable> load(std::shared_ptr<const compile::Program> program,
                                   std::shared_ptr<const std::vector<std::string>>) override {
    journal_->loaded.push_back(program);
    return std::make_unique<FakeExecutable>(std::move(program), journal_);
  }
  void attach() override { ++journal_->attached; }

 private:
  std::shared_ptr<Journal> journal_;
};

}  // namespace moai::runtime
