#include "compile/waits.h"

#include <algorithm>
#include <vector>

#include "compile/local/collective.h"

namespace moai::compile {

bool is_barrier(const Program& program, const Instruction& instruction) {
  static const ir::Symbol barrier = ir::Symbol::intern("moai.barrier");
  return instruction.kind == Instruction::Kind::kCall && program.graph.node(instruction.node).op == barrier;
}

namespace {

// Bytes of the arena's buffers that live at each instruction.
std::vector<int64_t> live_bytes(const Program& program) {
  std::vector<int64_t> live(program.instructions.size() + 1);
  for (const auto& buffer : program.buffers) {
    if (buffer.home != Buffer::Home::kArena || buffer.first == kNone) continue;
    live[buffer.first] += buffer.bytes;
    live[buffer.last + 1] -= buffer.bytes;
  }
  for (size_t i = 1; i < live.size(); ++i) live[i] += live[i - 1];
  return live;
}

// The room that lies under the highest peak of a program's memory.
class Room {
 public:
  explicit Room(const Program& program)
      : live_(live_bytes(program)), peak_(*std::max_element(live_.begin(), live_.end())) {}

  // How long these buffers can live, up to instruction `until`, so that the peak stays.
  int32_t lasts(const std::vector<const Buffer*>& buffers, int32_t from, int32_t until) const {
    for (int32_t i = from + 1; i <= until; ++i) {
      int64_t bytes = live_[i];
      for (const auto* buffer : buffers) bytes += added(*buffer, i);
      if (bytes > peak_) return i - 1;
    }
    return until;
  }

  void take(const Buffer& buffer, int32_t until) {
    for (int32_t i = buffer.last + 1; i <= until; ++i) live_[i] += added(buffer, i);
  }

 private:
  static int64_t added(const Buffer& buffer, int32_t at) {
    return buffer.home == Buffer::Home::kArena && at > buffer.last ? buffer.bytes : 0;
  }

  std::vector<int64_t> live_;  // by instruction
  int64_t peak_;
};

bool is_host_copy(const Program& program, const Instruction& instruction) {
  if (instruction.kind != Instruction::Kind::kCopy) return false;
  const auto is_on_host = [&](int32_t access) {
    return program.buffers[program.accesses[access].buffer].home == Buffer::Home::kHost;
  };
  return is_on_host(instruction.operands[0]) || is_on_host(instruction.results[0]);
}

// Whether it goes on beside those that follow: a collective, a copy to the host or from it.
bool is_begun(const Program& program, const Instruction& instruction) {
  if (instruction.kind == Instruction::Kind::kCopy) return is_host_copy(program, instruction);
  return !read_collectives(program.graph, instruction.node).empty();
}

// By instruction that starts something, the last one before its result is touched, what it reads is
// written or a barrier stands; kNone for others.
std::vector<int32_t> find_last_waits(const Program& program) {
  const auto count = static_cast<int32_t>(program.instructions.size());
  std::vector<int32_t> last(program.instructions.size(), kNone);
  // By buffer, the next instruction that touches or writes it; seen from the end.
  std::vector<int32_t> touched(program.buffers.size(), count), written(program.buffers.size(), count);
  int32_t barrier = count;
  for (int32_t i = count; i-- > 0;) {
    const Instruction& instruction = program.instructions[i];
    const auto buffer_of = [&](int32_t access) { return program.accesses[access].buffer; };
    if (is_begun(program, instruction)) {
      int32_t until = barrier;
      for (const int32_t access : instruction.operands) until = std::min(until, written[buffer_of(access)]);
      for (const int32_t access : instruction.results) until = std::min(until, touched[buffer_of(access)]);
      last[i] = until - 1;
    }
    if (is_barrier(program, instruction)) barrier = i;
    for (const int32_t access : instruction.operands) {
      if (access != kNone) touched[buffer_of(access)] = i;
    }
    for (const int32_t access : instruction.results) {
      if (access != kNone) touched[buffer_of(access)] = written[buffer_of(access)] = i;
    }
  }
  return last;
}

// Each once, in the order in which they are first named.
std::vector<Buffer*> buffers_of(Program& program, const Instruction& instruction) {
  std::vector<Buffer*> buffers;
  for (const auto* accesses : {&instruction.operands, &instruction.results}) {
    for (const int32_t access : *accesses) {
      Buffer* buffer = &program.buffers[program.accesses[access].buffer];
      if (std::find(buffers.begin(), buffers.end(), buffer) == buffers.end()) buffers.push_back(buffer);
    }
  }
  return buffers;
}

}  // namespace

void place_waits(Program& program, int64_t small_bytes) {
  Room room(program);
  const auto last = find_last_waits(program);
  for (size_t n = 0; n < last.size(); ++n) {
    const auto i = static_cast<int32_t>(n);
    if (last[n] == kNone) continue;
    Instruction& instruction = program.instructions[n];
    const auto buffers = buffers_of(program, instruction);
    int64_t bytes = 0;
    for (const auto* buffer : buffers) bytes += buffer->bytes;
    const int64_t small = small_bytes * static_cast<int64_t>(instruction.operands.size());
    const int32_t until = bytes <= small && !is_host_copy(program, instruction)
                              ? last[n]
                              : room.lasts({buffers.begin(), buffers.end()}, i, last[n]);
    if (until == i) continue;
    instruction.wait_after = until;
    for (auto* buffer : buffers) {
      room.take(*buffer, until);
      buffer->last = std::max(buffer->last, until);
    }
  }
}

}  // namespace moai::compile
