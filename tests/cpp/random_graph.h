// Valid graphs with every kind of node and argument, small enough to interpret.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "ir/graph.h"
#include "random_views.h"

namespace moai::ir {

class RandomGraph {
 public:
  explicit RandomGraph(uint32_t seed) : random_(seed) {}

  // Nodes repeat each other often; `numbers()` then holds offsets that fit.
  Graph make(int64_t nodes) {
    Graph graph;
    for (int64_t inputs = 1 + random_.below(3); inputs > 0; --inputs) graph.add_input(random_.base());
    for (int64_t i = 0; i < nodes; ++i) {
      section_ = i < nodes / 2 ? Section::kForward : Section::kBackward;
      if (random_.below(20) == 0) graph.add_input(random_.base());
      add_node(&graph);
    }
    std::vector<ValueId> outputs;
    for (int64_t left = random_.below(4); left >= 0; --left) outputs.push_back(value(graph));
    for (const Node& node : graph.nodes()) {
      if (!node.results.empty() && random_.below(8) == 0) outputs.push_back(node.results[0]);
    }
    graph.set_outputs(outputs);
    graph.set_hints(hints(graph));
    return graph;
  }

  // The value of each number of the graph made, 0 where it is no offset.
  const std::vector<int64_t>& numbers() const { return numbers_; }

  // Any argument that names no operand.
  Arg arg(Graph* graph) {
    switch (random_.below(11)) {
      case 0: return NoneArg{};
      case 1: return random_.below(2) == 1;
      case 2: return pick(kInts);
      case 3: return pick(kDoubles);
      case 4: return text();
      case 5: return DTypeArg{pick(kDTypes)};
      case 6: return list<int64_t>([&] { return pick(kInts); });
      case 7: return list<double>([&] { return pick(kDoubles); });
      case 8: return list<bool>([&] { return random_.below(2) == 1; });
      case 9: return NumberListRef{list<int32_t>([&] { return number(graph); })};
      default: return HostScalarArg{number(graph), pick(kDTypes), random_.below(2) == 1};
    }
  }

 private:
  std::vector<Hint> hints(const Graph& graph) {
    std::vector<Hint> all;
    for (size_t i = 0; i < graph.inputs().size(); ++i) {
      const auto dims = static_cast<int64_t>(graph.type(graph.inputs()[i]).sizes.size());
      if (random_.below(4) != 0) continue;
      const auto dim = static_cast<int32_t>(random_.below(dims + 1)) - 1;
      all.push_back(
          {static_cast<int32_t>(i), Symbol::intern(random_.below(2) == 0 ? "data" : "tensor"), dim});
    }
    return all;
  }

  static constexpr int64_t kInts[] = {
      0, 1, -1, 7, 123456789, std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::min()};
  static constexpr double kDoubles[] = {0.0,
                                        -0.0,
                                        1.0,
                                        0.1,
                                        -1e-5,
                                        1e300,
                                        1.0 / 3,
                                        123456789012345680.0,
                                        std::numeric_limits<double>::infinity(),
                                        -std::numeric_limits<double>::infinity(),
                                        std::numeric_limits<double>::quiet_NaN(),
                                        std::numeric_limits<double>::denorm_min(),
                                        std::numeric_limits<double>::max()};
  static constexpr DType kDTypes[] = {DType::kF32, DType::kBF16, DType::kBool, DType::kI64, DType::kF8E4M3FN};

  template <typename T, size_t N>
  T pick(const T (&from)[N]) {
    return from[random_.below(N)];
  }

  template <typename T, typename Make>
  std::vector<T> list(const Make& make) {
    std::vector<T> list;
    for (int64_t left = random_.below(4); left > 0; --left) list.push_back(make());
    return list;
  }

  std::string text() {
    std::string text;
    for (int64_t left = random_.below(6); left > 0; --left) {
      text += random_.below(2) ? static_cast<char>(random_.below(256)) : "\"\\\n#%a"[random_.below(6)];
    }
    return text;
  }

  ValueId value(const Graph& graph) {
    return static_cast<ValueId>(random_.below(static_cast<int64_t>(graph.values().size())));
  }

  int32_t number(Graph* graph, NumberKind kind, int64_t value) {
    numbers_.push_back(value);
    return graph->add_number(kind);
  }
  int32_t number(Graph* graph) { return number(graph, static_cast<NumberKind>(random_.below(3)), 0); }

  void add_node(Graph* graph) {
    Node node;
    node.section = section_;
    node.origin = static_cast<int32_t>(random_.below(100));
    switch (random_.below(10)) {
      case 0:
      case 1: return view(graph, std::move(node));
      case 2: return update(graph, std::move(node));
      case 3: return copy(graph, std::move(node));
      case 4: return odd(graph, std::move(node));
      case 5: return tied(graph, std::move(node));
      default: return plain(graph, std::move(node));
    }
  }

  // An int, or a number of the step with that value.
  Arg offset(Graph* graph, int64_t offset) {
    if (random_.below(3)) return offset;
    return NumberRef{number(graph, NumberKind::kInt, offset)};
  }

  void view(Graph* graph, Node node) {
    node.kind = NodeKind::kView;
    node.operands = {value(*graph)};
    Type type = graph->type(node.operands[0]);
    int64_t start = 0;
    for (int64_t steps = random_.below(4); steps > 0; --steps) random_.step(&type, &start);
    if (type.numel() > 4000) return;
    node.args = {offset(graph, start)};
    graph->add_node(std::move(node), {type});
  }

  // A region of a value, replaced by what some op makes.
  void update(Graph* graph, Node node) {
    const ValueId whole = value(*graph);
    const Type type = graph->type(whole);
    Type region = type;
    int64_t start = 0;
    for (int64_t steps = random_.below(3); steps > 0; --steps)
      random_.step(&region, &start, /*may_repeat=*/false);
    Node source;
    source.section = section_;
    source.op = Symbol::intern("aten.neg");
    source.operands = {value(*graph)};
    source.args = {OperandRef{0}};
    const bool as_region = random_.below(2) == 1;
    const NodeId id =
        graph->add_node(std::move(source), {as_region ? region : Type::contiguous(type.dtype, region.sizes)});
    node.kind = NodeKind::kUpdate;
    node.operands = {whole, graph->node(id).results[0]};
    node.args = {region.sizes, region.strides, offset(graph, start)};
    graph->add_node(std::move(node), {type});
  }

  void copy(Graph* graph, Node node) {
    node.op = Symbol::intern(random_.below(2) ? "aten.clone" : "aten._to_copy");
    node.operands = {value(*graph)};
    node.args = {OperandRef{0}, NoneArg{}};
    const Type type = graph->type(node.operands[0]);
    graph->add_node(std::move(node), {random_.below(3) ? type : Type::contiguous(type.dtype, type.sizes)});
  }

  // Few ops with few arguments, so that some come twice.
  void plain(Graph* graph, Node node) {
    const auto last = static_cast<int64_t>(graph->values().size());
    const auto recent = static_cast<ValueId>(last - 1 - random_.below(std::min<int64_t>(last, 4)));
    node.op = Symbol::intern(random_.below(2) ? "aten.relu" : "aten.add.Tensor");
    node.operands = {recent};
    node.args = {OperandRef{0}};
    if (random_.below(2)) node.args.emplace_back(random_.below(2));
    const Type type = graph->type(recent);
    graph->add_node(std::move(node), {Type::contiguous(type.dtype, type.sizes)});
  }

  void tied(Graph* graph, Node node) {
    node.op = Symbol::intern("aten.add_.Tensor");
    node.operands = {value(*graph), value(*graph)};
    node.args = {OperandRef{0}, OperandRef{1}, NumberRef{number(graph)}};
    std::vector<Type> types{random_.base(), graph->type(node.operands[1])};
    node.tied = {kNone, 1};
    if (random_.below(2)) types[0] = graph->type(node.operands[node.tied[0] = 0]);
    graph->add_node(std::move(node), std::move(types));
  }

  // Any arguments, operands out of order and in lists, odd names, no result or many.
  void odd(Graph* graph, Node node) {
    constexpr const char* kNames[] = {"aten.cat",  "view", "update", "return", "",
                                      "my op\n\"", "a.b",  "2nd",    "bool"};
    node.op = Symbol::intern(pick(kNames));
    if (node.op == Symbol()) node.op = Symbol::intern("x");
    const bool in_order = random_.below(2) == 1;
    const auto operand = [&] {
      if (!in_order && !node.operands.empty() && random_.below(2)) {
        return static_cast<int32_t>(random_.below(static_cast<int64_t>(node.operands.size())));
      }
      node.operands.push_back(value(*graph));
      return static_cast<int32_t>(node.operands.size()) - 1;
    };
    if (!in_order && random_.below(2)) node.operands.push_back(value(*graph));
    for (int64_t args = random_.below(5); args > 0; --args) {
      const int64_t kind = random_.below(3);
      if (kind == 0) {
        node.args.push_back(arg(graph));
      } else if (kind == 1) {
        node.args.emplace_back(OperandRef{operand()});
      } else {
        node.args.emplace_back(
            OperandListRef{list<int32_t>([&] { return random_.below(3) ? operand() : kNone; })});
      }
    }
    std::vector<Type> types;
    for (int64_t results = random_.below(4); results > 0; --results) {
      types.push_back(random_.base());
      types.back().dtype = pick(kDTypes);
      if (random_.below(8) == 0 && !types.back().sizes.empty()) types.back().sizes[0] = 0;
      if (random_.below(8) == 0 && !types.back().sizes.empty()) types.back().strides[0] = 77;
    }
    graph->add_node(std::move(node), std::move(types));
  }

  RandomViews random_;
  Section section_ = Section::kForward;
  std::vector<int64_t> numbers_;
};

}  // namespace moai::ir
