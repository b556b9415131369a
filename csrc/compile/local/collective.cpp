#include "compile/local/collective.h"

#include "ir/error.h"

namespace moai::compile {

namespace {

using K = Collective::Kind;
using List = std::vector<int64_t>;

template <typename T>
const T& at(const ir::Graph& graph, ir::NodeId id, size_t arg) {
  const ir::Node& node = graph.node(id);
  const T* value = arg < node.args.size() ? std::get_if<T>(&node.args[arg]) : nullptr;
  if (value == nullptr || node.operands.size() != 1 || node.results.size() != 1)
    throw Error(Phase::kCompile, "malformed collective").detail(ir::print(graph, id));
  return *value;
}

}  // namespace

const char* collective_name(K kind) {
  switch (kind) {
    case K::kAllReduce: return "moai.all_reduce";
    case K::kAllGather: return "moai.all_gather";
    case K::kReduceScatter: return "moai.reduce_scatter";
    case K::kAllToAll: return "moai.all_to_all";
  }
  return "?";
}

std::vector<ir::Arg> args_of(const Collective& c) {
  std::vector<ir::Arg> args{ir::OperandRef{0}, c.axes};
  if (c.kind != K::kAllReduce) {
    args.emplace_back(c.dim);
    args.emplace_back(c.sizes);
  }
  if (c.kind == K::kAllReduce || c.kind == K::kReduceScatter) args.emplace_back(c.reduction);
  if (c.kind == K::kAllToAll) {
    args.emplace_back(c.joined_dim);
    args.emplace_back(c.joined_sizes);
  }
  return args;
}

std::optional<Collective> read_collective(const ir::Graph& graph, ir::NodeId id) {
  const auto& name = graph.node(id).op.str();
  for (const K kind : {K::kAllReduce, K::kAllGather, K::kReduceScatter, K::kAllToAll}) {
    if (name != collective_name(kind)) continue;
    Collective c;
    c.kind = kind;
    c.axes = at<List>(graph, id, 1);
    if (kind == K::kAllReduce) {
      c.reduction = at<std::string>(graph, id, 2);
      return c;
    }
    c.dim = at<int64_t>(graph, id, 2);
    c.sizes = at<List>(graph, id, 3);
    if (kind == K::kReduceScatter) c.reduction = at<std::string>(graph, id, 4);
    if (kind == K::kAllToAll) {
      c.joined_dim = at<int64_t>(graph, id, 4);
      c.joined_sizes = at<List>(graph, id, 5);
    }
    return c;
  }
  return std::nullopt;
}

std::vector<int32_t> coordinates_of(const std::vector<int32_t>& mesh, int32_t device) {
  std::vector<int32_t> coordinates(mesh.size());
  for (size_t a = mesh.size(); a-- > 0;) {
    coordinates[a] = device % mesh[a];
    device /= mesh[a];
  }
  return coordinates;
}

std::vector<int32_t> group_of(const std::vector<int32_t>& mesh, int32_t device, const List& axes) {
  std::vector<int32_t> strides(mesh.size(), 1);
  for (size_t a = mesh.size(); a-- > 1;) strides[a - 1] = strides[a] * mesh[a];
  const auto coordinates = coordinates_of(mesh, device);
  for (const auto a : axes) device -= coordinates[a] * strides[a];
  std::vector<int32_t> members{device};
  for (const auto a : axes) {
    std::vector<int32_t> more;
    for (const auto member : members) {
      for (int32_t i = 0; i < mesh[a]; ++i) more.push_back(member + i * strides[a]);
    }
    members = std::move(more);
  }
  return members;
}

}  // namespace moai::compile
