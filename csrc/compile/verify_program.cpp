#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <vector>

#include "compile/program.h"
#include "ir/error.h"

namespace moai::compile {

namespace {

template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw Error(Phase::kCompile, concat(parts...));
}

template <typename List>
bool holds(const List& list, int32_t index) {
  return index >= 0 && static_cast<size_t>(index) < list.size();
}

class Verifier {
 public:
  explicit Verifier(const Program& program) : program_(program), written_(program.buffers.size()) {}

  void run() {
    for (size_t b = 0; b < program_.buffers.size(); ++b) buffer(b);
    for (size_t a = 0; a < program_.accesses.size(); ++a) access(a);
    for (size_t i = 0; i < program_.instructions.size(); ++i) instruction(i, program_.instructions[i]);
    lifetimes();
    outputs();
    if (program_.has_arena) arena();
  }

 private:
  void buffer(size_t b) {
    const Buffer& buffer = program_.buffers[b];
    if (buffer.bytes < 0) fail("buffer ", b, " has ", buffer.bytes, " bytes");
    if (buffer.home != Buffer::Home::kInput) return;
    if (!holds(program_.graph.inputs(), buffer.input))
      fail("buffer ", b, " is input ", buffer.input, " of ", program_.graph.inputs().size());
    written_[b] = true;
  }

  void access(size_t a) const {
    const Access& access = program_.accesses[a];
    if (!holds(program_.buffers, access.buffer))
      fail("access ", a, " is to buffer ", access.buffer, " of ", program_.buffers.size());
    const bool is_fixed = access.offset_number == kNone;
    if (!is_fixed && !holds(program_.graph.numbers(), access.offset_number))
      fail("access ", a, " begins at number n", access.offset_number, " of ",
           program_.graph.numbers().size());
    // Where it begins at a number, it must fit at 0 at least.
    const int64_t offset = is_fixed ? access.offset : 0;
    const int64_t end = (access.type.extent() + offset) * ir::element_bytes(access.type.dtype);
    const int64_t bytes = program_.buffers[access.buffer].bytes;
    if (access.type.numel() > 0 && (offset < 0 || end > bytes)) {
      fail("access ", a, " of type ", access.type.str(), " at ", offset, " leaves buffer ", access.buffer,
           " of ", bytes, " bytes");
    }
  }

  void instruction(size_t i, const Instruction& instruction) {
    for (const auto* list : {&instruction.operands, &instruction.results}) {
      for (const int32_t access : *list) {
        if (access == kNone && list == &instruction.operands) continue;  // an absent operand
        if (!holds(program_.accesses, access))
          fail("instruction ", i, " names access ", access, " of ", program_.accesses.size());
      }
    }
    if (instruction.kind == Instruction::Kind::kCopy) {
      copy(i, instruction);
    } else {
      call(i, instruction);
    }
    for (const int32_t access : instruction.operands) {
      if (access == kNone) continue;
      const int32_t b = program_.accesses[access].buffer;
      if (!written_[b]) fail("instruction ", i, " reads buffer ", b, " before anything wrote it");
    }
    for (const int32_t access : instruction.results) written_[program_.accesses[access].buffer] = true;
  }

  void copy(size_t i, const Instruction& copy) const {
    if (copy.operands.size() != 1 || copy.results.size() != 1 || copy.operands[0] == kNone)
      fail("instruction ", i, " is a copy and has not one operand and one result");
    const ir::Type& from = type_of(copy.operands[0]);
    const ir::Type& to = type_of(copy.results[0]);
    if (from.sizes != to.sizes || from.dtype != to.dtype)
      fail("instruction ", i, " copies ", from.str(), " to ", to.str());
  }

  bool is_on_host(int32_t access) const {
    return access != kNone && program_.buffers[program_.accesses[access].buffer].home == Buffer::Home::kHost;
  }

  void call(size_t i, const Instruction& call) const {
    if (!holds(program_.graph.nodes(), call.node) || program_.graph.node(call.node).kind != ir::NodeKind::kOp)
      fail("instruction ", i, " calls node ", call.node, ", which is no op");
    const ir::Node& node = program_.graph.node(call.node);
    same_types(i, "operand", call.operands, node.operands);
    same_types(i, "result", call.results, node.results);
    for (const auto* list : {&call.operands, &call.results}) {
      for (const int32_t access : *list) {
        if (is_on_host(access))
          fail("instruction ", i, " calls ", node.op.str(), " on what lies on the host");
      }
    }
    for (size_t r = 0; r < node.results.size(); ++r) {
      const int32_t tied = node.tied_operand(r);
      if (tied != ir::kNone && !same_place(call.results[r], call.operands[tied]))
        fail("instruction ", i, " has result ", r, " elsewhere than operand ", tied, ", to which it is tied");
    }
  }

  void same_types(size_t i, const char* what, const std::vector<int32_t>& accesses,
                  const std::vector<ir::ValueId>& values) const {
    if (accesses.size() != values.size())
      fail("instruction ", i, " has ", accesses.size(), " ", what, "s, its node ", values.size());
    for (size_t k = 0; k < values.size(); ++k) {
      if (accesses[k] == kNone || values[k] == ir::kNone) continue;
      const ir::Type& wanted = program_.graph.type(values[k]);
      const ir::Type& found = type_of(accesses[k]);
      if (found != wanted)
        fail("instruction ", i, " has ", what, " ", k, " of type ", found.str(), ", its node ", wanted.str());
    }
  }

  const ir::Type& type_of(int32_t access) const { return program_.accesses[access].type; }

  bool same_place(int32_t one, int32_t other) const {
    if (other == kNone) return false;
    const Access& a = program_.accesses[one];
    const Access& b = program_.accesses[other];
    return a.buffer == b.buffer && a.offset_number == b.offset_number &&
           (a.offset_number != kNone || a.offset == b.offset);
  }

  void lifetimes() const {
    std::vector<int32_t> first(program_.buffers.size(), kNone);
    std::vector<int32_t> last(program_.buffers.size(), kNone);
    for (size_t i = 0; i < program_.instructions.size(); ++i) {
      for (const auto* list : {&program_.instructions[i].operands, &program_.instructions[i].results}) {
        for (const int32_t access : *list) {
          if (access == kNone) continue;
          const int32_t b = program_.accesses[access].buffer;
          if (first[b] == kNone) first[b] = static_cast<int32_t>(i);
          last[b] = std::max({last[b], static_cast<int32_t>(i), program_.instructions[i].wait_after});
        }
      }
    }
    for (size_t b = 0; b < program_.buffers.size(); ++b) {
      const Buffer& buffer = program_.buffers[b];
      if (buffer.first != first[b] || buffer.last != last[b]) {
        fail("buffer ", b, " is said to live ", buffer.first, "..", buffer.last, ", but lives ", first[b],
             "..", last[b]);
      }
    }
  }

  void outputs() const {
    const auto& values = program_.graph.outputs();
    if (program_.output_buffers.size() != values.size())
      fail(program_.output_buffers.size(), " output buffers for ", values.size(), " outputs");
    std::vector<bool> taken(program_.buffers.size(), false);
    for (size_t o = 0; o < values.size(); ++o) {
      const int32_t b = program_.output_buffers[o];
      if (!holds(program_.buffers, b)) fail("output ", o, " is buffer ", b, " of ", program_.buffers.size());
      const Buffer& buffer = program_.buffers[b];
      if (buffer.home == Buffer::Home::kArena || buffer.home == Buffer::Home::kHost)
        fail("output ", o, " is buffer ", b, ", which is ",
             buffer.home == Buffer::Home::kHost ? "on the host" : "in the arena");
      if (taken[b]) fail("output ", o, " is buffer ", b, ", as another output is");
      if (!written_[b]) fail("output ", o, " is buffer ", b, ", which nothing wrote");
      const int64_t bytes = program_.graph.type(values[o]).bytes();
      if (buffer.bytes != bytes)
        fail("output ", o, " has ", bytes, " bytes, but its buffer ", b, " has ", buffer.bytes);
      taken[b] = true;
    }
  }

  // Sweeps over time with the live buffers ordered by offset: neighbours must not touch.
  void arena() const {
    std::map<int32_t, std::vector<int32_t>> begins;
    std::map<int32_t, std::vector<int32_t>> ends;
    for (size_t b = 0; b < program_.buffers.size(); ++b) {
      const Buffer& buffer = program_.buffers[b];
      if (buffer.home != Buffer::Home::kArena || buffer.first == kNone || buffer.bytes == 0) continue;
      if (buffer.offset < 0 || buffer.offset + buffer.bytes > program_.arena_bytes)
        fail("buffer ", b, " leaves the arena");
      begins[buffer.first].push_back(static_cast<int32_t>(b));
      ends[buffer.last + 1].push_back(static_cast<int32_t>(b));
    }
    std::map<int64_t, int32_t> live;
    for (const auto& [at, starting] : begins) {
      for (auto it = ends.begin(); it != ends.end() && it->first <= at; it = ends.erase(it)) {
        for (const int32_t b : it->second) live.erase(program_.buffers[b].offset);
      }
      for (const int32_t b : starting) place(b, &live);
    }
  }

  void place(int32_t b, std::map<int64_t, int32_t>* live) const {
    const Buffer& buffer = program_.buffers[b];
    const auto next = live->lower_bound(buffer.offset);
    if (next != live->end() && next->first < buffer.offset + buffer.bytes)
      fail("buffers ", b, " and ", next->second, " overlap");
    if (next != live->begin()) {
      const auto before = std::prev(next);
      const Buffer& other = program_.buffers[before->second];
      if (other.offset + other.bytes > buffer.offset)
        fail("buffers ", b, " and ", before->second, " overlap");
    }
    live->emplace(buffer.offset, b);
  }

  const Program& program_;
  std::vector<bool> written_;  // by buffer
};

}  // namespace

void verify(const Program& program) { Verifier(program).run(); }

}  // namespace moai::compile
