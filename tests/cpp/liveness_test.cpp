#include "compile/liveness.h"

#include "catch.h"

namespace moai::compile {
namespace {

TEST_CASE("last_use_is_the_last_node_or_the_end") {
  const ir::Graph graph = ir::parse(R"(graph(%0: f32[4], %1: f32[4], %2: f32[4]) {
    %3: f32[4] = aten.add(%0, %1)
    %4: f32[4], %5: f32[4] = aten.f(%3, %3)
    %6: f32[4] = aten.add(%4, %0)
    return %6, %1
  })");
  CHECK(last_use(graph) == std::vector<int32_t>{2, 3, -1, 1, 2, -1, 3});
}

}  // namespace
}  // namespace moai::compile
