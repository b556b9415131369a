#include "compile/largest_values.h"

#include <algorithm>

#include "ir/bytes_text.h"
#include "ir/error.h"

namespace moai::compile {

namespace {

// What first shows a buffer: the access, and the instruction that writes it (kNone: it is an input).
struct Origin {
  int32_t access = kNone;
  int32_t instruction = kNone;
};

std::vector<Origin> origins(const Program& program) {
  std::vector<Origin> all(program.buffers.size());
  for (size_t a = 0; a < program.accesses.size(); ++a) {
    // Of an input, the largest view of it.
    auto& origin = all[program.accesses[a].buffer];
    const auto bytes = [&](int32_t access) { return program.accesses[access].type.bytes(); };
    if (origin.access == kNone || bytes(static_cast<int32_t>(a)) > bytes(origin.access))
      origin.access = static_cast<int32_t>(a);
  }
  for (size_t i = program.instructions.size(); i-- > 0;) {
    for (const int32_t access : program.instructions[i].results) {
      const int32_t b = program.accesses[access].buffer;
      if (program.buffers[b].home == Buffer::Home::kInput) continue;
      all[b] = {access, static_cast<int32_t>(i)};
    }
  }
  return all;
}

}  // namespace

std::vector<std::string> largest_values(const Program& program, size_t instruction, size_t most,
                                        const std::vector<std::string>* lines) {
  const auto at = static_cast<int32_t>(instruction);
  std::vector<int32_t> alive;
  for (size_t b = 0; b < program.buffers.size(); ++b) {
    const Buffer& buffer = program.buffers[b];
    const bool is_input = buffer.home == Buffer::Home::kInput;
    if (buffer.home == Buffer::Home::kHost || buffer.first == kNone || buffer.last < at ||
        (!is_input && buffer.first > at))
      continue;
    alive.push_back(static_cast<int32_t>(b));
  }
  const auto is_larger = [&](int32_t x, int32_t y) {
    return program.buffers[x].bytes != program.buffers[y].bytes
               ? program.buffers[x].bytes > program.buffers[y].bytes
               : x < y;
  };
  std::sort(alive.begin(), alive.end(), is_larger);
  if (alive.size() > most) alive.resize(most);
  const auto origin_of = origins(program);
  std::vector<std::string> texts;
  for (const int32_t b : alive) {
    const Origin& origin = origin_of[b];
    std::string text = bytes_text(static_cast<double>(program.buffers[b].bytes));
    if (origin.access != kNone) text += " " + program.accesses[origin.access].type.str();
    const ir::NodeId id = origin.instruction == kNone ? kNone : program.instructions[origin.instruction].node;
    if (id == kNone || id >= static_cast<ir::NodeId>(program.graph.nodes().size())) {
      text += origin.instruction == kNone ? concat(", input ", program.buffers[b].input) : ", a copy";
    } else {
      const ir::Node& node = program.graph.node(id);
      text += " of " + node.op.str();
      if (lines != nullptr && node.origin >= 0 && !(*lines)[node.origin].empty())
        text += " at " + (*lines)[node.origin];
    }
    texts.push_back(std::move(text));
  }
  return texts;
}

}  // namespace moai::compile
