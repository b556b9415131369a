#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ir/graph.h"

namespace moai::compile {

constexpr int32_t kNone = -1;

// A piece of memory that one or more values of the graph live in, one after the other.
struct Buffer {
  enum class Home : uint8_t {
    kArena,   // at a fixed offset of the device's arena
    kInput,   // the memory of a graph input; becomes an output's when that input was donated
    kOutput,  // taken from the pool when first written, and handed over when the step ends
    kHost,    // the host's memory, taken when first written; only copies touch it
  };
  Home home = Home::kArena;
  int32_t input = kNone;  // kInput: which
  int64_t bytes = 0;
  int64_t offset = kNone;  // kArena, once the arena is planned
  int32_t first = kNone;   // first and last instruction that touches it; kNone: none does
  int32_t last = kNone;
};

// A strided view of a buffer.
struct Access {
  int32_t buffer = kNone;
  ir::Type type;
  int64_t offset = 0;             // elements; used where `offset_number` is kNone
  int32_t offset_number = kNone;  // position of the offset among the step's numbers
};

struct Instruction {
  enum class Kind : uint8_t {
    kCall,  // run the node's operator
    kCopy,  // results[0] := operands[0], same sizes; the one way to a buffer on the host, and from it
  };
  Kind kind = Kind::kCall;
  ir::NodeId node = kNone;        // kCall: the node; kCopy: the node it serves
  std::vector<int32_t> operands;  // accesses; by operand of the node
  std::vector<int32_t> results;   // accesses; by result of the node. A tied result is written
                                  // through its operand's access, which is the same memory
  int32_t wait_after = kNone;  // of a collective that is only started here: the instruction behind which it
                               // is waited for, see Note [When a collective is waited for]
};

// What one device executes for one graph: instructions over buffers. Immutable once built.
struct Program {
  ir::Graph graph;
  std::vector<Buffer> buffers;
  std::vector<Access> accesses;
  std::vector<Instruction> instructions;
  std::vector<int32_t> output_buffers;  // by graph output
  std::vector<int32_t> mesh;            // that its collectives speak of; empty on one device
  int64_t arena_bytes = 0;              // 0 until plan_memory
  bool has_arena = false;
};

struct LowerOptions {
  // By graph input: its storage holds another value when the step ends, so that its memory may
  // be written, after the last instruction that can raise.
  std::vector<bool> donated;
};

// Turns a graph into instructions and decides who writes in place: a tied result takes its
// operand's memory where that was the last use, a pointwise result that of a dead operand of the
// same type; otherwise the operand is copied first. Linear in the graph.
Program lower(ir::Graph graph, const LowerOptions& options);

// Gives every arena buffer an offset from its lifetime. A program without this runs too: its
// buffers are then allocated at their first use and freed after their last.
void plan_memory(Program& program);

// Throws Error(Phase::kCompile) when two buffers that live at the same time overlap, or an
// instruction reads a buffer before it is written.
void verify(const Program& program);

std::string print(const Program& program);

}  // namespace moai::compile
