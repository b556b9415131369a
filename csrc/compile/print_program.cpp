#include <string>

#include "compile/program.h"
#include "ir/error.h"

namespace moai::compile {

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
      case Buffer::Home::kHost: text += "host"; break;
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
