#include "compile/local/collective.h"

#include <optional>

#include "ir/error.h"

namespace moai::compile {

namespace {

using K = Collective::Kind;
using List = std::vector<int64_t>;

constexpr K kKinds[] = {K::kAllReduce, K::kAllGather, K::kReduceScatter, K::kAllToAll};

const ir::Symbol& bucket() {
  static const ir::Symbol name = ir::Symbol::intern("moai.bucket");
  return name;
}

std::optional<K> kind_of(const std::string& name) {
  for (const K kind : kKinds) {
    if (name == collective_name(kind)) return kind;
  }
  return std::nullopt;
}

// Takes a node's arguments one after the other.
class Reader {
 public:
  Reader(const ir::Graph& graph, ir::NodeId id) : graph_(graph), id_(id), args_(graph.node(id).args) {}

  Collective read(K kind) {
    if (take<ir::OperandRef>().operand != operand_++) malformed();
    Collective c;
    c.kind = kind;
    c.axes = take<List>();
    if (kind != K::kAllReduce) {
      c.dim = take<int64_t>();
      c.sizes = take<List>();
    }
    if (kind == K::kAllReduce || kind == K::kReduceScatter) c.reduction = take<std::string>();
    if (kind == K::kAllToAll) {
      c.joined_dim = take<int64_t>();
      c.joined_sizes = take<List>();
    }
    return c;
  }
  K read_kind() {
    const auto kind = kind_of(take<std::string>());
    if (!kind) malformed();
    return *kind;
  }
  bool ends() const { return at_ == args_.size(); }
  [[noreturn]] void malformed() const {
    throw Error(Phase::kCompile, "malformed collective").detail(ir::print(graph_, id_));
  }

 private:
  template <typename T>
  const T& take() {
    const T* value = at_ < args_.size() ? std::get_if<T>(&args_[at_]) : nullptr;
    if (value == nullptr) malformed();
    ++at_;
    return *value;
  }

  const ir::Graph& graph_;
  const ir::NodeId id_;
  const std::vector<ir::Arg>& args_;
  size_t at_ = 0;
  int32_t operand_ = 0;  // that comes next
};

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

std::vector<Collective> read_collectives(const ir::Graph& graph, ir::NodeId id) {
  const ir::Node& node = graph.node(id);
  const bool is_bucket = node.op == bucket();
  const auto kind = is_bucket ? std::nullopt : kind_of(node.op.str());
  if (!is_bucket && !kind) return {};
  Reader reader(graph, id);
  std::vector<Collective> all;
  if (kind) all.push_back(reader.read(*kind));
  while (!reader.ends()) {
    if (!is_bucket) reader.malformed();
    all.push_back(reader.read(reader.read_kind()));
    if (all.back().axes != all[0].axes) reader.malformed();
  }
  if (all.empty() || node.operands.size() != all.size() || node.results.size() != all.size())
    reader.malformed();
  return all;
}

ir::Node bucket_of(const ir::Graph& graph, const std::vector<ir::NodeId>& collectives) {
  ir::Node node = graph.node(collectives.back());
  node.op = bucket();
  node.operands.clear();
  node.args.clear();
  for (const auto id : collectives) {
    const ir::Node& one = graph.node(id);
    node.args.emplace_back(one.op.str());
    node.args.emplace_back(ir::OperandRef{static_cast<int32_t>(node.operands.size())});
    node.args.insert(node.args.end(), one.args.begin() + 1, one.args.end());
    node.operands.push_back(one.operands[0]);
  }
  node.results.clear();
  return node;
}

std::vector<bool> in_place_of_bucket(const ir::Graph& graph, ir::NodeId id) {
  std::vector<bool> all;
  if (graph.node(id).op != bucket()) return all;
  for (const Collective& one : read_collectives(graph, id)) all.push_back(one.kind == K::kAllReduce);
  return all;
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
