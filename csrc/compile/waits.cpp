#include "compile/waits.h"

#include <algorithm>
#include <vector>

#include "compile/local/collective.h"

namespace moai::compile {

bool is_barrier(const Program& program, const Instruction& instruction) {
  static const ir::Symbol barrier = ir::Symbol::intern("moai.barrier");
  return instruction.kind == Instruction::Kind::kCall && program.graph.node(instruction.node).op == barrier;
}

void place_waits(Program& program, int64_t small_bytes) {
  const auto count = static_cast<int32_t>(program.instructions.size());
  // By buffer, the next instruction that touches or writes it; seen from the end.
  std::vector<int32_t> touched(program.buffers.size(), count), written(program.buffers.size(), count);
  int32_t barrier = count;
  for (int32_t i = count; i-- > 0;) {
    Instruction& instruction = program.instructions[i];
    const auto buffer_of = [&](int32_t access) { return program.accesses[access].buffer; };
    if (instruction.kind == Instruction::Kind::kCall && read_collective(program.graph, instruction.node)) {
      const int32_t in = buffer_of(instruction.operands[0]), out = buffer_of(instruction.results[0]);
      const int64_t bytes = program.buffers[in].bytes + program.buffers[out].bytes;
      if (in == out || bytes <= small_bytes) {
        instruction.wait_after = std::min({touched[out], written[in], barrier}) - 1;
        for (const int32_t b : {in, out})
          program.buffers[b].last = std::max(program.buffers[b].last, instruction.wait_after);
      }
    }
    if (is_barrier(program, instruction)) barrier = i;
    for (const int32_t access : instruction.operands) {
      if (access != kNone) touched[buffer_of(access)] = i;
    }
    for (const int32_t access : instruction.results) {
      if (access != kNone) touched[buffer_of(access)] = written[buffer_of(access)] = i;
    }
  }
}

}  // namespace moai::compile
