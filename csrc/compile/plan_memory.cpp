#include <cstddef>
#include <vector>

#include "compile/arena.h"
#include "compile/program.h"

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

}  // namespace moai::compile
