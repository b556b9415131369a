// What a graph means and what a program computes, byte by byte: the yardstick for lowering.
//
// Ops compute made-up bytes. Each byte of a result is made from the op's name, its arguments and all
// the bytes of its operands; a pointwise op makes each element from the elements at the same index
// alone. Two computations of the same thing agree; of others, in all likelihood, they do not.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "compile/program.h"
#include "ir/arg.h"
#include "ir/error.h"
#include "ops/host_copies.h"
#include "ops/traits.h"
#include "random_views.h"

namespace moai::compile {

using Bytes = std::vector<uint8_t>;

// A strided view of some bytes.
struct Shown {
  uint8_t* data = nullptr;
  int64_t bytes = 0;  // from `data` on
  ir::Type type;
  int64_t offset = 0;  // elements

  // Calls `visit(element)` in row-major order. Throws where the view leaves its memory.
  template <typename Visit>
  void each(const Visit& visit) const {
    const int64_t size = ir::element_bytes(type.dtype);
    ir::for_each_index(type.sizes, [&](const ir::Dims& index) {
      const int64_t at = size * std::inner_product(index.begin(), index.end(), type.strides.begin(), offset);
      if (at < 0 || at + size > bytes) throw std::logic_error("an access leaves its buffer");
      visit(data + at);
    });
  }

  // The element at an index into a tensor that this one broadcasts to.
  uint64_t word(const ir::Dims& index) const {
    int64_t at = offset;
    const size_t skip = index.size() - type.sizes.size();
    for (size_t d = 0; d < type.sizes.size(); ++d) {
      if (type.sizes[d] != 1) at += index[d + skip] * type.strides[d];
    }
    uint64_t word = 0;
    const auto size = static_cast<size_t>(ir::element_bytes(type.dtype));
    std::memcpy(&word, data + at * static_cast<int64_t>(size), std::min(size, sizeof word));
    return word;
  }

  Bytes elements() const {
    Bytes out;
    const int64_t size = ir::element_bytes(type.dtype);
    each([&](const uint8_t* element) { out.insert(out.end(), element, element + size); });
    return out;
  }

  void store(const Bytes& from) const {
    size_t next = 0;
    const auto size = static_cast<size_t>(ir::element_bytes(type.dtype));
    each([&](uint8_t* element) {
      if (next + size > from.size()) throw std::logic_error("a copy between different sizes");
      std::memcpy(element, from.data() + next, size);
      next += size;
    });
    if (next != from.size()) throw std::logic_error("a copy between different sizes");
  }

  void fill(uint64_t seed) const {
    uint64_t i = 0;
    const int64_t size = ir::element_bytes(type.dtype);
    each([&](uint8_t* element) {
      for (int64_t b = 0; b < size; ++b) element[b] = static_cast<uint8_t>(ir::mix(seed, i++));
    });
  }
};

// Runs one op in memory. `operands` of a tied result are written in place; those that are not written
// are read as they are at that moment, so that an op's own writes into them are seen.
inline void run_op(const ir::Node& node, const std::vector<Shown>& operands,
                   const std::vector<Shown>& results) {
  const std::string& name = node.op.str();
  const bool is_copy = (name == "aten.clone" || name == "aten._to_copy") && node.tied.empty() &&
                       operands[0].type.dtype == results[0].type.dtype;
  if (is_copy || ops::is_host_copy(node.op)) return results[0].store(operands[0].elements());

  uint64_t seed = ir::mix_text(0, name);
  for (const ir::Arg& arg : node.args) seed = ir::mix_arg(seed, arg);
  if (ops::traits(node.op).pointwise && results.size() == 1 && node.tied.empty()) {
    const ir::Dims& sizes = results[0].type.sizes;
    const int64_t size = ir::element_bytes(results[0].type.dtype);
    std::vector<ir::Dims> indices;
    ir::for_each_index(sizes, [&](const ir::Dims& index) { indices.push_back(index); });
    size_t next = 0;
    results[0].each([&](uint8_t* element) {
      uint64_t hash = seed;
      for (const Shown& operand : operands) hash = ir::mix(hash, operand.word(indices[next]));
      ++next;
      for (int64_t b = 0; b < size; ++b) element[b] = static_cast<uint8_t>(ir::mix(hash, b));
    });
    return;
  }

  const auto is_written = [&](size_t operand) {
    return std::find(node.tied.begin(), node.tied.end(), static_cast<int32_t>(operand)) != node.tied.end();
  };
  std::vector<Bytes> before(operands.size());
  for (size_t o = 0; o < operands.size(); ++o) {
    if (is_written(o)) before[o] = operands[o].elements();
  }
  // A kernel may write a result before it has read its operands.
  for (size_t r = 0; r < results.size(); ++r) {
    if (node.tied_operand(r) == ir::kNone) results[r].fill(~seed);
  }
  for (size_t r = 0; r < results.size(); ++r) {
    uint64_t hash = ir::mix(seed, r);
    for (size_t o = 0; o < operands.size(); ++o) {
      for (const uint8_t byte : is_written(o) ? before[o] : operands[o].elements())
        hash = ir::mix(hash, byte);
    }
    const int32_t tied = node.tied_operand(r);
    (tied == ir::kNone ? results[r] : operands[tied]).fill(hash);
  }
}

inline uint64_t input_seed(size_t input) { return ir::mix(1, input); }

// What the graph says: every value has memory of its own.
class Meaning {
 public:
  Meaning(const ir::Graph& graph, const std::vector<int64_t>& numbers)
      : graph_(graph), numbers_(numbers), memory_(graph.values().size()) {}

  // The elements of each output.
  std::vector<Bytes> run() {
    for (size_t v = 0; v < memory_.size(); ++v)
      memory_[v].assign(graph_.type(static_cast<ir::ValueId>(v)).bytes(), 0);
    for (size_t i = 0; i < graph_.inputs().size(); ++i) shown(graph_.inputs()[i]).fill(input_seed(i));
    for (const ir::Node& node : graph_.nodes()) run(node);
    std::vector<Bytes> outputs;
    for (const ir::ValueId output : graph_.outputs()) outputs.push_back(shown(output).elements());
    return outputs;
  }

 private:
  Shown shown(ir::ValueId id) {
    return {memory_[id].data(), static_cast<int64_t>(memory_[id].size()), graph_.type(id), 0};
  }

  int64_t offset(const ir::Arg& arg) const {
    if (const auto* fixed = std::get_if<int64_t>(&arg)) return *fixed;
    return numbers_.at(std::get<ir::NumberRef>(arg).index);
  }

  void run(const ir::Node& node) {
    if (node.kind == ir::NodeKind::kView) {
      const ir::Type& type = graph_.type(node.results[0]);
      const auto begin = offset(node.args[0]) * ir::element_bytes(type.dtype);
      const Bytes& from = memory_[node.operands[0]];
      if (type.bytes() == 0) return;
      if (begin + type.bytes() > static_cast<int64_t>(from.size())) throw std::logic_error("a view too long");
      memory_[node.results[0]].assign(from.begin() + begin, from.begin() + begin + type.bytes());
    } else if (node.kind == ir::NodeKind::kUpdate) {
      memory_[node.results[0]] = memory_[node.operands[0]];
      Shown region = shown(node.results[0]);
      region.type.dtype = graph_.type(node.operands[1]).dtype;
      region.type.sizes = std::get<ir::Dims>(node.args[0]);
      region.type.strides = std::get<ir::Dims>(node.args[1]);
      region.offset = offset(node.args[2]);
      region.store(shown(node.operands[1]).elements());
    } else {
      std::vector<Shown> operands;
      std::vector<Shown> results;
      for (size_t r = 0; r < node.results.size(); ++r) {
        results.push_back(shown(node.results[r]));
        const int32_t tied = node.tied_operand(r);
        if (tied != ir::kNone) memory_[node.results[r]] = memory_[node.operands[tied]];
      }
      for (size_t o = 0; o < node.operands.size(); ++o) {
        const auto tied = std::find(node.tied.begin(), node.tied.end(), static_cast<int32_t>(o));
        operands.push_back(
            shown(tied == node.tied.end() ? node.operands[o] : node.results[tied - node.tied.begin()]));
      }
      run_op(node, operands, results);
    }
  }

  const ir::Graph& graph_;
  const std::vector<int64_t>& numbers_;
  std::vector<Bytes> memory_;  // by value
};

// Executes a program on plain memory: arena buffers at their offsets in one array, so that those that
// overlap spoil each other; what a program may not look at is overwritten with rubbish. Throws
// std::logic_error when it does what a program may not do.
class ProgramRun {
 public:
  ProgramRun(const Program& program, const std::vector<int64_t>& numbers, const std::vector<bool>& donated)
      : program_(program), numbers_(numbers), donated_(donated) {}

  // The elements of each output.
  std::vector<Bytes> run() {
    allocate();
    for (size_t i = 0; i < program_.instructions.size(); ++i) {
      for (size_t b = 0; b < program_.buffers.size(); ++b) {
        const Buffer& buffer = program_.buffers[b];
        if (buffer.first == static_cast<int32_t>(i) && buffer.home != Buffer::Home::kInput) spoil(b);
      }
      step(program_.instructions[i]);
      for (size_t b = 0; b < program_.buffers.size(); ++b) {
        if (program_.buffers[b].last == static_cast<int32_t>(i) && !is_output(b)) end(b);
      }
    }
    for (size_t b = 0; b < program_.buffers.size(); ++b) {
      if (program_.buffers[b].home == Buffer::Home::kInput && !may_write(b)) check_untouched(b);
    }
    std::vector<Bytes> outputs;
    for (size_t o = 0; o < program_.output_buffers.size(); ++o) {
      const int32_t b = program_.output_buffers[o];
      if (program_.buffers[b].home == Buffer::Home::kArena) throw std::logic_error("an output in the arena");
      if (program_.buffers[b].home == Buffer::Home::kInput && !may_write(b))
        throw std::logic_error("an undonated input handed over");
      if (std::count(program_.output_buffers.begin(), program_.output_buffers.end(), b) > 1)
        throw std::logic_error("two outputs in one buffer");
      const ir::Type& type = program_.graph.type(program_.graph.outputs()[o]);
      outputs.push_back(Shown{memory_[b].data, memory_[b].bytes, type, 0}.elements());
    }
    return outputs;
  }

 private:
  struct Memory {
    uint8_t* data = nullptr;
    int64_t bytes = 0;
  };

  void allocate() {
    arena_.assign(program_.arena_bytes, 0xEE);
    for (size_t b = 0; b < program_.buffers.size(); ++b) {
      const Buffer& buffer = program_.buffers[b];
      if (buffer.home == Buffer::Home::kArena && program_.has_arena) {
        memory_.push_back({arena_.data() + std::max<int64_t>(buffer.offset, 0), buffer.bytes});
      } else {
        own_.emplace_back(buffer.bytes, 0xEE);
        memory_.push_back({own_.back().data(), buffer.bytes});
      }
      if (buffer.home != Buffer::Home::kInput) continue;
      const ir::Type& type = program_.graph.type(program_.graph.inputs()[buffer.input]);
      Shown{memory_[b].data, buffer.bytes, type, 0}.fill(input_seed(buffer.input));
      inputs_.emplace_back(b, own_.back());
    }
  }

  void step(const Instruction& instruction) {
    std::vector<Shown> operands;
    std::vector<Shown> results;
    for (const int32_t access : instruction.operands) operands.push_back(shown(access));
    for (const int32_t access : instruction.results) results.push_back(shown(access));
    if (instruction.kind == Instruction::Kind::kCopy) {
      results.at(0).store(operands.at(0).elements());
      return;
    }
    const ir::Node& node = program_.graph.node(instruction.node);
    if (ops::traits(node.op).can_raise) {
      for (const auto& [b, bytes] : inputs_) check_untouched(b);
    }
    for (size_t o = 0; o < operands.size(); ++o) check_type(operands[o].type, node.operands[o]);
    for (size_t r = 0; r < results.size(); ++r) {
      check_type(results[r].type, node.results[r]);
      const int32_t tied = node.tied_operand(r);
      if (tied == ir::kNone) continue;
      if (operands[tied].data != results[r].data || operands[tied].offset != results[r].offset)
        throw std::logic_error("a tied result lies elsewhere than its operand");
    }
    run_op(node, operands, results);
    if (!ops::traits(node.op).can_raise) return;
    for (const auto& [b, bytes] : inputs_) check_untouched(b);
  }

  Shown shown(int32_t id) const {
    const Access& access = program_.accesses.at(id);
    const Memory& memory = memory_.at(access.buffer);
    const int64_t offset = access.offset_number == kNone ? access.offset : numbers_.at(access.offset_number);
    return {memory.data, memory.bytes, access.type, offset};
  }

  void check_type(const ir::Type& type, ir::ValueId value) const {
    if (type != program_.graph.type(value))
      throw std::logic_error("an access of another type than its value");
  }

  bool is_output(size_t b) const {
    const auto& outputs = program_.output_buffers;
    return std::find(outputs.begin(), outputs.end(), static_cast<int32_t>(b)) != outputs.end();
  }
  bool may_write(size_t b) const { return donated_[program_.buffers[b].input]; }
  void spoil(size_t b) { std::fill_n(memory_[b].data, memory_[b].bytes, 0xDD); }

  void end(size_t b) {
    if (program_.buffers[b].home != Buffer::Home::kInput) return spoil(b);
    if (!may_write(b)) check_untouched(b);
    dropped_.push_back(b);
    spoil(b);
  }

  void check_untouched(size_t b) const {
    if (std::find(dropped_.begin(), dropped_.end(), b) != dropped_.end()) return;
    for (const auto& [buffer, bytes] : inputs_) {
      if (buffer == b && !std::equal(bytes.begin(), bytes.end(), memory_[b].data))
        throw std::logic_error("an input was written");
    }
  }

  const Program& program_;
  const std::vector<int64_t>& numbers_;
  const std::vector<bool>& donated_;
  Bytes arena_;
  std::deque<Bytes> own_;
  std::vector<Memory> memory_;                    // by buffer
  std::vector<std::pair<size_t, Bytes>> inputs_;  // buffer and what it held at first
  std::vector<size_t> dropped_;
};

}  // namespace moai::compile
