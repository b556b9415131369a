// Any text given as a graph is read or refused with Error; what is read prints and reads back equal, and what
// verifies has factors, a share kept whole and, if it is small, a plan.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "ir/error.h"
#include "ir/graph.h"
#include "ir/passes.h"
#include "plan/kept_whole.h"
#include "plan/planner.h"
#include "plan/split_lists.h"

namespace {

using namespace moai;

void check(bool holds) {
  if (!holds) std::abort();
}

// Few enough choices that one input takes milliseconds.
bool is_small(const ir::Graph& graph) {
  if (graph.nodes().size() > 6 || graph.inputs().size() > 8) return false;
  for (size_t v = 0; v < graph.values().size(); ++v) {
    if (graph.type(static_cast<ir::ValueId>(v)).sizes.size() > 5) return false;
  }
  return true;
}

// The graph of a case of tests/cpp/cases, or all of the text.
std::string_view graph_in(std::string_view text) {
  const size_t start = text.find("graph(");
  if (start != std::string_view::npos) text.remove_prefix(start);
  for (const char* end : {"\nout:", "\nerror:"}) text = text.substr(0, text.find(end));
  return text;
}

void plan_of(const ir::Graph& graph) {
  static const plan::Cluster cluster = plan::named_cluster("h100:2x3");
  const plan::StepPlan found = plan::plan_step(graph, cluster);
  check(!found.candidates.empty());
  for (const auto& candidate : found.candidates) {
    const auto& assignment = candidate.assignment;
    if (assignment.fits) check(assignment.nodes.size() >= graph.nodes().size());
    else check(!assignment.excess.empty());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const ir::Graph graph = ir::parse(std::string(graph_in(text)));
    ir::verify(graph);
    const std::string printed = ir::print(graph);
    check(ir::print(ir::parse(printed)) == printed);
    const ir::Graph canonical = ir::canonicalise_views(graph);
    ir::verify(canonical);
    const ir::Graph split = plan::split_lists(canonical);
    ir::verify(split);
    const plan::Frame frame = plan::make_frame(split);
    plan::kept_whole(split, frame);
    if (is_small(split)) plan_of(canonical);
  } catch (const Error&) {
  }
  return 0;
}
