// Any text given as a plan is read or refused with Error, and what is read is followed on a small step or
// refused.
#include <cstddef>
#include <cstdint>
#include <string>

#include "ir/error.h"
#include "ir/graph.h"
#include "plan/cluster/cluster.h"
#include "plan/replay.h"

namespace {

using namespace moai;

// The one that the corpus has plans of.
constexpr const char* kStep = R"(graph(%0: f32[8,4], %1: f32[4,6], %2: f32[6,4]) {
  %3: f32[8,6] = aten.mm(%0, %1)
  %4: f32[8,6] = aten.relu(%3)
  %5: f32[8,4] = aten.mm(%4, %2)
  return %5
}
)";

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const ir::Graph step = ir::parse(kStep);
  static const plan::Cluster cluster = plan::parse_cluster("h100:4");
  try {
    const plan::SavedPlan plan = plan::load_plan(std::string(reinterpret_cast<const char*>(data), size));
    plan::replay(step, cluster, plan, false);
  } catch (const Error&) {
  }
  return 0;
}
