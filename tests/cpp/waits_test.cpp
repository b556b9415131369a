#include "compile/waits.h"

#include <algorithm>
#include <string>

#include "catch.h"
#include "compile/program.h"

namespace moai::compile {
namespace {

constexpr int64_t kSmall = 1024;

// With x of this many rows of 64, each op a step of its own.
Program program_of(int rows, const std::string& body) {
  const std::string x = "f32[" + std::to_string(rows) + ",64]";
  std::string text = "graph(%0: " + x + ", %1: f32[64,64]) numbers(f) {\n" + body + "}";
  for (size_t at; (at = text.find("X")) != std::string::npos;) text.replace(at, 1, x);
  Program program = lower(ir::parse(text), {});
  place_waits(program, kSmall);
  plan_memory(program);
  verify(program);
  return program;
}

int32_t at(const Program& program, const std::string& op) {
  for (size_t i = 0; i < program.instructions.size(); ++i) {
    const auto& instruction = program.instructions[i];
    if (instruction.kind == Instruction::Kind::kCall && program.graph.node(instruction.node).op.str() == op)
      return static_cast<int32_t>(i);
  }
  return kNone;
}

TEST_CASE("a_sum_in_place_is_waited_for_before_it_is_read") {
  const Program program = program_of(32, R"(
    %2: X = aten.relu(%0)
    %3: X = moai.all_reduce(%2, [0], "sum")
    %4: X = aten.mm(%0, %1)
    %5: X = aten.mm(%4, %1)
    %6: X = aten.add.Tensor(%5, %3, n0)
    return %6
  )");
  const int32_t sum = at(program, "moai.all_reduce");
  CHECK(program.instructions[sum].wait_after == at(program, "aten.add.Tensor") - 1);
  CHECK(program.instructions[sum].wait_after > sum);
}

TEST_CASE("what_would_keep_memory_is_let_go_on_only_if_it_is_small") {
  const char* body = R"(
    %2: X = aten.relu(%0)
    %3: f32[128,64] = moai.all_gather(%2, [0], 0, [64, 64])
    %4: X = aten.mm(%0, %1)
    %5: f32[128,64] = aten.relu(%3)
    return %4, %5
  )";
  const Program large = program_of(64, body);
  CHECK(large.instructions[at(large, "moai.all_gather")].wait_after == kNone);
  const Program small = program_of(1, R"(
    %2: X = aten.relu(%0)
    %3: f32[2,64] = moai.all_gather(%2, [0], 0, [1, 1])
    %4: X = aten.mm(%0, %1)
    %5: X = aten.mm(%4, %1)
    %6: f32[2,64] = aten.relu(%3)
    return %5, %6
  )");
  const auto& gather = small.instructions[at(small, "moai.all_gather")];
  CHECK(gather.wait_after > at(small, "aten.mm"));
  const auto& given = small.buffers[small.accesses[gather.operands[0]].buffer];
  CHECK(given.last == gather.wait_after);
}

TEST_CASE("nothing_is_on_its_way_at_the_barrier_and_an_output_is_waited_for_at_the_end") {
  const Program program = program_of(2, R"(
    %2: X = aten.relu(%0)
    %3: X = moai.all_reduce(%2, [0], "sum")
    moai.barrier()
    %4: X = aten.sigmoid(%0)
    %5: X = moai.all_reduce(%4, [0], "max")
    %6: X = aten.mm(%0, %1)
    return %3, %5, %6
  )");
  const auto& first = program.instructions[at(program, "moai.all_reduce")];
  CHECK(first.wait_after == at(program, "moai.barrier") - 1);
  int32_t last = kNone;
  for (const auto& instruction : program.instructions) last = std::max(last, instruction.wait_after);
  CHECK(last == static_cast<int32_t>(program.instructions.size()) - 1);
}

}  // namespace
}  // namespace moai::compile
