#include "plan/planner.h"

#include <algorithm>
#include <chrono>
#include <set>

#include "ir/error.h"
#include "plan/split_lists.h"

namespace moai::plan {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// All devices on one axis, and every division in two whose inner axis divides a host (or the devices, where
// there is one level).
std::vector<std::vector<int32_t>> meshes(const Cluster& cluster, int32_t axes) {
  const int32_t devices = cluster.device_count();
  if (devices == 1) return {{}};
  std::vector<std::vector<int32_t>> all{{devices}};
  const auto last = static_cast<int32_t>(cluster.levels.size()) - 1;
  const int64_t host = last > 0 ? cluster.devices_in(last - 1) : devices;
  for (int32_t inner = 2; axes > 1 && inner <= host && inner < devices; ++inner) {
    if (host % inner == 0 && devices % inner == 0) all.push_back({devices / inner, inner});
  }
  return all;
}

// The atoms of what a script feeds in: the first and the second dims of integer inputs, and the first of
// other inputs that no later step finds updated are the batch.
struct DataAtoms {
  std::set<int32_t> batch, sequence;

  DataAtoms(const ir::Graph& graph, const Frame& frame) {
    for (const auto input : graph.inputs()) {
      const auto& type = graph.type(input);
      if (type.dtype != ir::DType::kI64 || type.sizes.empty()) continue;
      const auto& dims = frame.value_dims[input];
      batch.insert(dims[0].begin(), dims[0].end());
      if (dims.size() > 1) sequence.insert(dims[1].begin(), dims[1].end());
    }
    for (const auto atom : batch) sequence.erase(atom);
  }
};

AxisUse use_of(const ir::Graph& graph, const Frame& frame, const DataAtoms& data,
               const Assignment& assignment, size_t axis, int32_t size) {
  AxisUse use;
  use.size = size;
  double total = 0;
  for (size_t n = 0; n < graph.nodes().size(); ++n) {
    const double flops = frame.rules[n].flops;
    const auto& choice = assignment.nodes[n].choices[axis];
    total += flops;
    if (choice.kind != AxisChoice::Kind::kFactor) {
      use.whole += flops;
      continue;
    }
    const auto atom = frame.node_factors[n][choice.factor][choice.leaf];
    (data.batch.count(atom) ? use.data : data.sequence.count(atom) ? use.sequence : use.tensor) += flops;
  }
  if (total > 0) {
    for (double* share : {&use.data, &use.sequence, &use.tensor, &use.whole}) *share /= total;
  }
  const double most = std::max({use.data, use.sequence, use.tensor, use.whole});
  use.name = most == use.data       ? "data"
             : most == use.sequence ? "sequence"
             : most == use.tensor   ? "tensor"
                                    : "whole";
  return use;
}

std::string words(const Candidate& candidate, double state_bytes, int32_t micro_batches) {
  std::string text;
  for (const auto& axis : candidate.axes)
    text += concat(text.empty() ? "" : " x ", axis.name, " ", axis.size);
  if (text.empty()) text = "one device";
  const double parts =
      candidate.assignment.state_bytes > 0 ? state_bytes / candidate.assignment.state_bytes : 1;
  if (parts > 1.05) text += concat("; weights and states in ", static_cast<int64_t>(parts + 0.5), " parts");
  if (micro_batches > 1) text += concat("; ", micro_batches, " micro-batches");
  return text;
}

}  // namespace

StepPlan plan_step(const ir::Graph& given, const Cluster& cluster, int32_t micro_batches, int32_t axes) {
  StepPlan plan;
  plan.micro_batches = micro_batches;
  auto start = Clock::now();
  const ir::Graph graph = split_lists(given);
  const Frame frame = make_frame(graph);
  plan.kept_whole = kept_whole(graph, frame);
  const DataAtoms data(graph, frame);
  double state_bytes = 0;
  for (const auto input : graph.inputs()) state_bytes += static_cast<double>(graph.type(input).bytes());
  plan.frame_seconds = seconds_since(start);

  start = Clock::now();
  const auto memory = static_cast<double>(cluster.smallest_memory());
  for (const auto& sizes : meshes(cluster, axes)) {
    const auto began = Clock::now();
    Candidate candidate;
    candidate.mesh = sizes;
    const Mesh mesh = Mesh::make(cluster, sizes);
    candidate.assignment = assign(graph, frame, mesh, memory, micro_batches);
    const auto& found = candidate.assignment;
    candidate.peak_bytes = *std::max_element(found.bytes.begin(), found.bytes.end());
    if (found.fits) {
      for (size_t a = 0; a < sizes.size(); ++a)
        candidate.axes.push_back(use_of(graph, frame, data, found, a, sizes[a]));
      candidate.layout = words(candidate, state_bytes, micro_batches);
    }
    candidate.search_seconds = seconds_since(began);
    const bool first = plan.candidates.empty();
    plan.lower_bound = first ? found.lower_bound : std::min(plan.lower_bound, found.lower_bound);
    plan.candidates.push_back(std::move(candidate));
  }
  std::stable_sort(
      plan.candidates.begin(), plan.candidates.end(), [](const Candidate& a, const Candidate& b) {
        if (a.assignment.fits != b.assignment.fits) return a.assignment.fits;
        return a.assignment.fits ? a.assignment.seconds < b.assignment.seconds : a.peak_bytes < b.peak_bytes;
      });
  plan.search_seconds = seconds_since(start);
  return plan;
}

}  // namespace moai::plan
