#include <algorithm>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "catch.h"
#include "compile/largest_values.h"
#include "compile/program.h"
#include "ir/error.h"
#include "ir/passes.h"
#include "random_step.h"
#include "run_program.h"
#include "text_cases.h"

namespace moai::compile {
namespace {

ir::Graph improved(const ir::Graph& graph) {
  return ir::merge_common_subexpressions(ir::remove_needless_copies(ir::eliminate_dead_code(graph)));
}

struct Found {
  int64_t copies = 0;
  int64_t in_place = 0;  // fresh results in the memory of an operand
  int64_t instructions = 0;
};

void count(const Program& program, Found* found) {
  for (const Instruction& instruction : program.instructions) {
    ++found->instructions;
    found->copies += instruction.kind == Instruction::Kind::kCopy;
    if (instruction.kind == Instruction::Kind::kCopy || instruction.results.size() != 1) continue;
    if (program.graph.node(instruction.node).tied_operand(0) != ir::kNone) continue;
    for (const int32_t access : instruction.operands) {
      found->in_place += program.accesses[access].buffer == program.accesses[instruction.results[0]].buffer;
    }
  }
}

// Lowers `graph` and runs the program with its memory planned and not.
Found check(const ir::Graph& graph, const std::vector<int64_t>& numbers, const std::vector<bool>& donated,
            const std::vector<Bytes>& wanted) {
  Program program = lower(graph, {donated});
  INFO(print(program));
  verify(program);
  REQUIRE(ProgramRun(program, numbers, donated).run() == wanted);
  plan_memory(program);
  INFO(print(program));
  verify(program);
  REQUIRE(ProgramRun(program, numbers, donated).run() == wanted);
  REQUIRE(print(program) == [&] {
    Program again = lower(graph, {donated});
    plan_memory(again);
    return print(again);
  }());
  Found found;
  count(program, &found);
  return found;
}

TEST_CASE("a_program_computes_what_its_graph_means") {
  Found found;
  for (uint32_t seed = 0; seed < 6000; ++seed) {
    INFO("seed " << seed);
    ir::RandomStep random(seed);
    const ir::Graph graph = random.make(2 + seed % 23);
    INFO(ir::print(graph));
    ir::verify(graph);
    const std::vector<Bytes> wanted = Meaning(graph, random.numbers()).run();
    const Found one = check(graph, random.numbers(), random.donated(), wanted);
    found.copies += one.copies;
    found.in_place += one.in_place;
    found.instructions += one.instructions;
    const ir::Graph better = improved(graph);
    INFO(ir::print(better));
    REQUIRE(Meaning(better, random.numbers()).run() == wanted);
    check(better, random.numbers(), random.donated(), wanted);
    // As the planner sees it and back: at these offsets, or with all of them left open.
    for (const bool varies : {false, true}) {
      const std::vector<bool> all(random.numbers().size(), varies);
      const ir::Graph fixed = ir::fixed_offsets(better, random.numbers(), all);
      const ir::Graph back = ir::strided_views(ir::canonicalise_views(fixed));
      INFO(ir::print(back));
      ir::verify(back);
      REQUIRE(Meaning(back, random.numbers()).run() == wanted);
    }
  }
  INFO(found.copies << " copies, " << found.in_place << " in place, of " << found.instructions);
  CHECK((found.in_place > 500 && found.copies > 500));
}

std::vector<bool> donated_in(const TextCase& text) {
  std::vector<bool> donated;
  if (text.parts.count("donated") == 0) return donated;
  for (const char c : text.part("donated")) {
    if (c == '0' || c == '1') donated.push_back(c == '1');
  }
  return donated;
}

// tests/cpp/cases/lower/*.txt: a graph, which inputs are donated, and the program with its memory planned.
TEST_CASE("programs_as_text") {
  for (const TextCase& text : text_cases("lower")) {
    INFO(text.path);
    const ir::Graph graph = ir::parse(text.part("in"));
    ir::verify(graph);
    Program program = lower(graph, {donated_in(text)});
    plan_memory(program);
    verify(program);
    CHECK(print(program) == text.part("out"));
  }
}

std::string error_of(const Program& program) {
  try {
    verify(program);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST_CASE("verify_of_a_program_says_what_is_wrong") {
  Program sound = lower(ir::parse(R"(graph(%a: f32[4,4], %b: f32[4,4]) numbers(i) {
    %c: f32[4,4] = aten.mm(%a, %b)
    %v: f32[4] = view(%c, offset=4)
    %d@0: f32[4], %e: f32[2] = aten.f(%v, %a)
    %u: f32[4,4] = update(%c, %d, [4]{1}, offset=8)
    %r: f32[4,4] = aten.mm(%u, %e)
    return %r
  })"),
                        {});
  plan_memory(sound);
  INFO(print(sound));
  REQUIRE(error_of(sound) == "no error");
  using Break = std::function<void(Program&)>;
  const auto access = [](Program& p, size_t i, size_t result) -> Access& {
    return p.accesses[p.instructions[i].results[result]];
  };
  const std::pair<const char*, Break> rows[] = {
      {"buffer 2 has -1 bytes", [](Program& p) { p.buffers[2].bytes = -1; }},
      {"buffer 0 is input 7 of 2", [](Program& p) { p.buffers[0].input = 7; }},
      {"access 0 is to buffer 99 of 6", [](Program& p) { p.accesses[0].buffer = 99; }},
      {"access 0 begins at number n1 of 1", [](Program& p) { p.accesses[0].offset_number = 1; }},
      {"access 0 of type f32[4,4] at 1 leaves buffer 0 of 64 bytes",
       [](Program& p) { p.accesses[0].offset = 1; }},
      {"access 0 of type f32[4,4] at -1 leaves", [](Program& p) { p.accesses[0].offset = -1; }},
      {"access 0 of type f32[4,4] at 0 leaves buffer 0 of 60 bytes",
       [](Program& p) { p.buffers[0].bytes = 60; }},
      {"instruction 0 names access 99 of", [](Program& p) { p.instructions[0].operands[0] = 99; }},
      {"instruction 0 names access -1 of", [](Program& p) { p.instructions[0].results[0] = kNone; }},
      {"instruction 0 calls node 99, which is no op", [](Program& p) { p.instructions[0].node = 99; }},
      {"instruction 0 calls node 1, which is no op", [](Program& p) { p.instructions[0].node = 1; }},
      {"instruction 0 has 1 operands, its node 2", [](Program& p) { p.instructions[0].operands.pop_back(); }},
      {"instruction 0 has 0 results, its node 1", [](Program& p) { p.instructions[0].results.clear(); }},
      {"instruction 0 has result 0 of type f32[2,4], its node f32[4,4]",
       [&](Program& p) { access(p, 0, 0).type = ir::Type::contiguous(ir::DType::kF32, {2, 4}); }},
      {"instruction 1 is a copy and has not one operand and one result",
       [](Program& p) { p.instructions[1].operands.clear(); }},
      {"instruction 1 copies", [&](Program& p) { access(p, 1, 0).type.sizes = {1}; }},
      {"instruction 2 has result 0 elsewhere than operand 0, to which it is tied",
       [](Program& p) {
         p.accesses.push_back(p.accesses[p.instructions[2].results[0]]);
         p.accesses.back().offset = 0;
         p.accesses.back().buffer = 2;
         p.instructions[2].results[0] = static_cast<int32_t>(p.accesses.size()) - 1;
       }},
      {"instruction 0 reads buffer 2 before anything wrote it",
       [](Program& p) { std::swap(p.instructions[0].operands[0], p.instructions[0].results[0]); }},
      {"buffer 2 is said to live 0..1, but lives 0..4", [](Program& p) { p.buffers[2].last = 1; }},
      {"0 output buffers for 1 outputs", [](Program& p) { p.output_buffers.clear(); }},
      {"output 0 is buffer 99 of 6", [](Program& p) { p.output_buffers = {99}; }},
      {"output 0 is buffer 2, which is in the arena", [](Program& p) { p.output_buffers = {2}; }},
      {"output 1 is buffer 5, as another output is",
       [](Program& p) {
         p.graph.set_outputs({p.graph.outputs()[0], p.graph.outputs()[0]});
         p.output_buffers = {5, 5};
       }},
      {"output 0 is buffer 6, which nothing wrote",
       [](Program& p) {
         p.buffers.push_back(p.buffers[5]);
         p.buffers.back().first = p.buffers.back().last = kNone;
         p.output_buffers = {6};
       }},
      {"output 0 has 64 bytes, but its buffer 5 has 128", [](Program& p) { p.buffers[5].bytes = 128; }},
      {"buffer 3 leaves the arena", [](Program& p) { p.buffers[3].offset = p.arena_bytes; }},
      {"buffer 3 leaves the arena", [](Program& p) { p.buffers[3].offset = kNone; }},
      {"buffers 3 and 2 overlap", [](Program& p) { p.buffers[3].offset = p.buffers[2].offset; }},
  };
  for (const auto& [message, break_it] : rows) {
    Program broken = sound;
    break_it(broken);
    INFO(message);
    CHECK_THAT(error_of(broken), ContainsSubstring(message));
  }
}

TEST_CASE("the_largest_values_in_memory_are_named") {
  const Program program = lower(ir::parse(R"(graph(%0: f32[512,512]) {
    %1: f32[1024,1024] = aten.f(%0)
    %2: f32[256,256] = aten.g(%1)
    %3: f32[2048,512] = aten.h(%2)
    %4: f32[4] = aten.mix(%3, %0)
    return %4
  })"),
                                {});
  CHECK(largest_values(program, 1, 2, nullptr) ==
        std::vector<std::string>{"4.0 MiB f32[1024,1024] of aten.f", "1.0 MiB f32[512,512], input 0"});
  // What is dead, and what is to come, is not there.
  CHECK(largest_values(program, 2, 8, nullptr) ==
        std::vector<std::string>{"4.0 MiB f32[2048,512] of aten.h", "1.0 MiB f32[512,512], input 0",
                                 "256.0 KiB f32[256,256] of aten.g"});
}

}  // namespace
}  // namespace moai::compile
