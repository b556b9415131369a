#include <algorithm>
#include <map>

#include "compile/arena.h"
#include "compile/program.h"
#include "ir/error.h"

namespace moai::compile {

void plan_memory(Program& program) {
  std::vector<Interval> intervals;
  std::vector<size_t> of;
  for (size_t b = 0; b < program.buffers.size(); ++b) {
    const Buffer& buffer = program.buffers[b];
    if (buffer.home != Buffer::Home::kArena || buffer.first == kNone) continue;
    intervals.push_back({buffer.bytes, buffer.first, buffer.last});
    of.push_back(b);
  }
  const ArenaPlan plan = plan_arena(intervals);
  for (size_t i = 0; i < of.size(); ++i) program.buffers[of[i]].offset = plan.offsets[i];
  program.arena_bytes = plan.bytes;
  program.has_arena = true;
}

void verify(const Program& program) {
  const auto fail = [](const auto&... parts) { throw Error(Phase::kCompile, concat(parts...)); };
  std::vector<bool> written(program.buffers.size(), false);
  for (size_t b = 0; b < program.buffers.size(); ++b) {
    written[b] = program.buffers[b].home == Buffer::Home::kInput;
  }
  for (size_t i = 0; i < program.instructions.size(); ++i) {
    for (const int32_t access : program.instructions[i].operands) {
      if (access == kNone) continue;
      const int32_t b = program.accesses[access].buffer;
      if (!written[b]) fail("instruction ", i, " reads buffer ", b, " before anything wrote it");
    }
    for (const int32_t access : program.instructions[i].results)
      written[program.accesses[access].buffer] = true;
  }
  for (size_t a = 0; a < program.accesses.size(); ++a) {
    const Access& access = program.accesses[a];
    if (access.offset_number != kNone) continue;
    const int64_t end = (access.type.extent() + access.offset) * ir::element_bytes(access.type.dtype);
    if (access.type.numel() > 0 && end > program.buffers[access.buffer].bytes) {
      fail("access ", a, " of type ", access.type.str(), " leaves buffer ", access.buffer, " of ",
           program.buffers[access.buffer].bytes, " bytes");
    }
  }
  if (!program.has_arena) return;
  // Sweep over time with the live buffers ordered by offset: neighbours must not touch.
  std::map<int32_t, std::vector<int32_t>> begins;
  std::map<int32_t, std::vector<int32_t>> ends;
  for (size_t b = 0; b < program.buffers.size(); ++b) {
    const Buffer& buffer = program.buffers[b];
    if (buffer.home != Buffer::Home::kArena || buffer.first == kNone || buffer.bytes == 0) continue;
    if (buffer.offset < 0 || buffer.offset + buffer.bytes > program.arena_bytes)
      fail("buffer ", b, " leaves the arena");
    begins[buffer.first].push_back(static_cast<int32_t>(b));
    ends[buffer.last + 1].push_back(static_cast<int32_t>(b));
  }
  std::map<int64_t, int32_t> live;
  for (const auto& [at, starting] : begins) {
    for (auto it = ends.begin(); it != ends.end() && it->first <= at; it = ends.erase(it)) {
      for (const int32_t b : it->second) live.erase(program.buffers[b].offset);
    }
    for (const int32_t b : starting) {
      const Buffer& buffer = program.buffers[b];
      const auto next = live.lower_bound(buffer.offset);
      if (next != live.end() && next->first < buffer.offset + buffer.bytes)
        fail("buffers ", b, " and ", next->second, " overlap");
      if (next != live.begin()) {
        const auto before = std::prev(next);
        const Buffer& other = program.buffers[before->second];
        if (other.offset + other.bytes > buffer.offset)
          fail("buffers ", b, " and ", before->second, " overlap");
      }
      live[buffer.offset] = b;
    }
  }
}

namespace {

std::string name_of(const Program& program, int32_t access_id) {
  if (access_id == kNone) return "None";
  const Access& access = program.accesses[access_id];
  std::string text = concat("b", access.buffer, ":", access.type.str());
  if (access.offset_number != kNone) text += concat("@n", access.offset_number);
  if (access.offset != 0) text += concat("@", access.offset);
  return text;
}

}  // namespace

std::string print(const Program& program) {
  std::string text = concat("program arena=", program.arena_bytes, " bytes {\n");
  for (size_t b = 0; b < program.buffers.size(); ++b) {
    const Buffer& buffer = program.buffers[b];
    text += concat("  b", b, ": ", buffer.bytes, " bytes, ");
    switch (buffer.home) {
      case Buffer::Home::kArena: text += concat("arena+", buffer.offset); break;
      case Buffer::Home::kInput: text += concat("input ", buffer.input); break;
      case Buffer::Home::kOutput: text += "output"; break;
    }
    text += concat(", live ", buffer.first, "..", buffer.last, "\n");
  }
  for (size_t i = 0; i < program.instructions.size(); ++i) {
    const Instruction& instruction = program.instructions[i];
    text += concat("  ", i, ": ");
    for (size_t r = 0; r < instruction.results.size(); ++r)
      text += (r ? ", " : "") + name_of(program, instruction.results[r]);
    const bool call = instruction.kind == Instruction::Kind::kCall;
    text += concat(instruction.results.empty() ? "" : " = ",
                   call ? program.graph.node(instruction.node).op.str() : "copy", "(");
    for (size_t o = 0; o < instruction.operands.size(); ++o)
      text += (o ? ", " : "") + name_of(program, instruction.operands[o]);
    text += ")\n";
  }
  text += "  return";
  for (const int32_t b : program.output_buffers) text += concat(" b", b);
  return text + "\n}\n";
}

}  // namespace moai::compile
