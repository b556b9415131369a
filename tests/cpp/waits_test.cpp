#include "compile/waits.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "catch.h"
#include "compile/arena.h"
#include "compile/local/collective.h"
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

TEST_CASE("copies_to_the_host_and_back_go_on_beside_ops_and_keep_memory_where_there_is_room") {
  const auto waits = [](int rows) {
    const Program program = program_of(rows, R"(
      %2: X = aten.relu(%0)
      %3: X = moai.to_host(%2)
      %4: X = aten.mm(%2, %1)
      %5: X = aten.mm(%4, %1)
      %6: X = aten.add.Tensor(%5, %4, n0)
      %7: X = moai.from_host(%3)
      %8: X = aten.relu(%6)
      %9: X = aten.add.Tensor(%8, %7, n0)
      %10: X = aten.mm(%9, %1)
      return %10
    )");
    std::vector<int32_t> found;
    for (const auto& instruction : program.instructions) {
      if (instruction.kind == Instruction::Kind::kCopy) found.push_back(instruction.wait_after);
    }
    return found;
  };
  // The value that left is read by one more op, after which its memory is wanted; the one that comes is
  // waited for before it is read. Small ones give their memory back as soon.
  CHECK(waits(1) == waits(4096));
  CHECK(waits(4096) == std::vector<int32_t>{2, 6});
}

// A chain of ops and collectives over values of 1 to 64 rows, each read by a few later ones.
ir::Graph random_collectives(uint32_t seed) {
  std::mt19937 random(seed);
  const auto below = [&](size_t end) { return static_cast<size_t>(random() % end); };
  const auto type = [](int rows) { return "f32[" + std::to_string(rows) + ",64]"; };
  std::vector<int> rows{8};  // by value
  std::string text = "graph(%0: f32[8,64]) numbers(f) {\n";
  for (size_t v = 1; v < 40; ++v) {
    const size_t from = v - 1 - below(std::min<size_t>(v, 6));
    const int has = rows[from];
    const std::string half = std::to_string(has / 2), whole = std::to_string(has);
    const std::string in = "(%" + std::to_string(from);
    const size_t kind = below(4);
    if (kind == 0 && has < 64) {
      rows.push_back(2 * has);
      text += "%" + std::to_string(v) + ": " + type(2 * has) + " = moai.all_gather" + in + ", [0], 0, [" +
              whole + ", " + whole + "])\n";
    } else if (kind == 1 && has > 1) {
      rows.push_back(has / 2);
      text += "%" + std::to_string(v) + ": " + type(has / 2) + " = moai.reduce_scatter" + in + ", [0], 0, [" +
              half + ", " + half + "], \"sum\")\n";
    } else {
      rows.push_back(has);
      const char* op = kind == 2 ? " = moai.all_reduce" : " = aten.relu";
      text +=
          "%" + std::to_string(v) + ": " + type(has) + op + in + (kind == 2 ? ", [0], \"sum\")\n" : ")\n");
    }
  }
  return ir::parse(text + "return %39, %38\n}");
}

int64_t peak_of(const Program& program) {
  std::vector<Interval> intervals;
  for (const auto& buffer : program.buffers) {
    if (buffer.home == Buffer::Home::kArena && buffer.first != kNone)
      intervals.push_back({buffer.bytes, buffer.first, buffer.last});
  }
  return plan_arena(intervals, 1).lower_bound;
}

TEST_CASE("what_keeps_memory_is_let_go_on_while_there_is_room_below_the_peak") {
  int let_go = 0, ended_early = 0;
  for (uint32_t seed = 0; seed < 200; ++seed) {
    INFO("seed " << seed);
    Program program = lower(random_collectives(seed), {});
    const int64_t peak = peak_of(program);
    place_waits(program, 0);
    CHECK(peak_of(program) == peak);
    for (size_t i = 0; i < program.instructions.size(); ++i) {
      const auto& instruction = program.instructions[i];
      if (instruction.kind != Instruction::Kind::kCall ||
          read_collectives(program.graph, instruction.node).empty())
        continue;
      const int32_t in = program.accesses[instruction.operands[0]].buffer;
      const int32_t out = program.accesses[instruction.results[0]].buffer;
      const auto ends =
          static_cast<size_t>(std::max<int32_t>(instruction.wait_after, static_cast<int32_t>(i)));
      const auto touches = [&](size_t at) {
        const auto& other = program.instructions[at];
        const auto is = [&](int32_t access, int32_t buffer) {
          return access != kNone && program.accesses[access].buffer == buffer;
        };
        return std::any_of(other.operands.begin(), other.operands.end(),
                           [&](int32_t a) { return is(a, out); }) ||
               std::any_of(other.results.begin(), other.results.end(),
                           [&](int32_t a) { return is(a, in) || is(a, out); });
      };
      for (size_t at = i + 1; at <= ends; ++at) CHECK_FALSE(touches(at));
      let_go += ends > i ? 1 : 0;
      const bool reads_next = ends + 1 < program.instructions.size() && !touches(ends + 1);
      if (!reads_next) continue;
      // It could have gone on but for the memory.
      ++ended_early;
      Program longer = program;
      for (const int32_t buffer : {in, out})
        longer.buffers[buffer].last = std::max(longer.buffers[buffer].last, static_cast<int32_t>(ends) + 1);
      CHECK(peak_of(longer) > peak);
    }
  }
  CHECK(let_go > 200);
  CHECK(ended_early > 100);
}

TEST_CASE("what_is_small_is_let_go_on_in_any_case") {
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
    %7: X = aten.mm(%0, %1)
    moai.barrier()
    %4: X = aten.sigmoid(%0)
    %5: X = moai.all_reduce(%4, [0], "max")
    %6: X = aten.mm(%0, %1)
    return %3, %5, %6, %7
  )");
  const auto& first = program.instructions[at(program, "moai.all_reduce")];
  CHECK(first.wait_after == at(program, "moai.barrier") - 1);
  int32_t last = kNone;
  for (const auto& instruction : program.instructions) last = std::max(last, instruction.wait_after);
  CHECK(last == static_cast<int32_t>(program.instructions.size()) - 1);
}

}  // namespace
}  // namespace moai::compile
