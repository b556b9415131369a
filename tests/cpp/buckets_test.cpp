#include "compile/local/buckets.h"

#include <string>

#include "catch.h"
#include "compile/program.h"
#include "local_graphs_text.h"

namespace moai::compile {
namespace {

constexpr BucketLimits kLimits{1024, 2048};

// tests/cpp/cases/buckets/*.txt: a mesh, for each device the name of a graph, and what each becomes.
TEST_CASE("small_collectives_of_a_group_are_merged_into_buckets") {
  for (const TextCase& text : text_cases("buckets")) {
    INFO(text.path);
    const LocalGraphsText local(text);
    const auto merged = merge_into_buckets(local.graphs, local.mesh, kLimits);
    REQUIRE(merged.size() == local.graphs.size());
    for (size_t d = 0; d < merged.size(); ++d)
      CHECK(ir::print(*merged[d]) == ir::print(ir::parse(text.part("out" + local.names[d]))));
  }
}

TEST_CASE("a_bucket_is_malformed_where_its_collectives_are_of_several_groups") {
  const auto graph = std::make_shared<const ir::Graph>(ir::parse(R"(graph(%0: f32[4]) {
    %1: f32[4], %2: f32[4] = moai.bucket("moai.all_reduce", %0, [0], "sum", "moai.all_reduce", %0, [1], "sum")
    return %1, %2
  })"));
  CHECK_THROWS_WITH(merge_into_buckets({graph, graph}, {2, 1}), ContainsSubstring("malformed collective"));
}

// A sum takes the memory of its operand where that ends there, and not where it is summed twice.
TEST_CASE("sums_of_a_bucket_are_in_place") {
  const Program program = lower(ir::parse(R"(graph(%0: f32[64]) {
    %1: f32[64] = aten.relu(%0)
    %2: f32[64] = aten.relu(%1)
    %3: f32[64], %4: f32[64], %5: f32[64] = moai.bucket("moai.all_reduce", %1, [0], "sum", "moai.all_reduce", %2, [0], "sum", "moai.all_reduce", %2, [0], "max")
    %6: f32[64] = aten.add.Tensor(%3, %4, 1)
    %7: f32[64] = aten.add.Tensor(%6, %5, 1)
    return %7
  })"),
                                {});
  const auto buffers = [&](const std::vector<int32_t>& accesses) {
    std::vector<int32_t> all;
    for (const int32_t access : accesses) all.push_back(program.accesses[access].buffer);
    return all;
  };
  for (const auto& instruction : program.instructions) {
    if (instruction.operands.size() != 3) continue;
    const auto in = buffers(instruction.operands), out = buffers(instruction.results);
    CHECK(out[0] == in[0]);
    CHECK(out[1] != in[1]);
    CHECK(out[2] != in[1]);
    CHECK(out[2] != out[1]);
  }
}

}  // namespace
}  // namespace moai::compile
