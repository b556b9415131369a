// Steps as a script makes them, and worse: chains of views, writes through them, ops that write many
// operands, the same value given twice. Every value is small and dense or a view of such a one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "ir/graph.h"
#include "random_views.h"

namespace moai::ir {

class RandomStep {
 public:
  explicit RandomStep(uint32_t seed) : random_(seed) {}

  Graph make(int64_t nodes) {
    for (int64_t inputs = 1 + below(4); inputs > 0; --inputs) add_input();
    raises_ = below(3) == 0;
    while (static_cast<int64_t>(graph_.nodes().size()) < nodes) add();
    std::vector<ValueId> outputs;
    for (int64_t left = below(4); left >= 0; --left) outputs.push_back(value());
    for (const Node& node : graph_.nodes()) {
      if (!node.results.empty() && below(8) == 0) outputs.push_back(node.results[0]);
    }
    graph_.set_outputs(std::move(outputs));
    return graph_;
  }

  const std::vector<int64_t>& numbers() const { return numbers_; }  // by position
  const std::vector<bool>& donated() const { return donated_; }     // by input

 private:
  int64_t below(int64_t end) { return random_.below(end); }

  void add_input() {
    graph_.add_input(base());
    donated_.push_back(below(2) == 1);
  }

  Type base() {
    constexpr DType kDTypes[] = {DType::kF32, DType::kF32,  DType::kF32,  DType::kF64,
                                 DType::kU8,  DType::kBF16, DType::kBool, DType::kC128};
    Type type = random_.base();
    while (type.numel() > 150) type = random_.base();
    if (below(3) == 0) type.dtype = kDTypes[below(8)];
    if (below(15) == 0 && !type.sizes.empty()) {
      type.sizes[below(static_cast<int64_t>(type.sizes.size()))] = 0;
      type = Type::contiguous(type.dtype, type.sizes);
    }
    return type;
  }

  // The newest are the likeliest.
  ValueId value() {
    const auto all = static_cast<int64_t>(graph_.values().size());
    return static_cast<ValueId>(below(2) ? all - 1 - below(std::min<int64_t>(all, 6)) : below(all));
  }

  Arg offset(int64_t offset) {
    if (below(3) == 0) return offset;
    numbers_.push_back(offset);
    return NumberRef{graph_.add_number(NumberKind::kInt)};
  }

  Node op(const char* name, std::vector<ValueId> operands) {
    Node node;
    node.op = Symbol::intern(name);
    for (size_t i = 0; i < operands.size(); ++i) node.args.emplace_back(OperandRef{static_cast<int32_t>(i)});
    node.operands = std::move(operands);
    return node;
  }

  void add() {
    switch (below(16)) {
      case 0:
      case 1:
      case 2: view(value(), /*may_repeat=*/true); return;
      case 3: reinterpret(); return;
      case 4:
      case 5:
      case 6: write_view(); return;
      case 7: write_whole(); return;
      case 8: write_many(); return;
      case 9: update(); return;
      case 10: clone(); return;
      case 11:
      case 12: anything(); return;
      case 13:
        if (below(4) == 0) add_input();
        return;
      default: pointwise(); return;
    }
  }

  struct View {
    ValueId value;
    ValueId base;
    Type type;
    Arg offset;
  };

  View view(ValueId of, bool may_repeat) {
    Type type = graph_.type(of);
    int64_t start = 0;
    for (int64_t steps = below(4); steps > 0; --steps) {
      const Type was = type;
      const int64_t was_start = start;
      random_.step(&type, &start, may_repeat);
      if (type.numel() <= 300) continue;
      type = was;
      start = was_start;
    }
    Node node;
    node.kind = NodeKind::kView;
    node.operands = {of};
    const Arg at = offset(start);
    node.args = {at};
    const NodeId id = graph_.add_node(std::move(node), {type});
    return {graph_.node(id).results[0], of, type, at};
  }

  // The bytes of a dense value as elements of another type.
  void reinterpret() {
    constexpr DType kTo[] = {DType::kU8, DType::kI16, DType::kF32, DType::kF64, DType::kI32};
    const ValueId of = value();
    if (!graph_.type(of).is_dense()) return;
    const DType to = kTo[below(5)];
    const int64_t most = graph_.type(of).bytes() / element_bytes(to);
    const int64_t start = below(2) ? 0 : below(most + 1);
    const int64_t size = below(2) ? most - start : below(most - start + 1);
    Node node;
    node.kind = NodeKind::kView;
    node.operands = {of};
    node.args = {offset(start)};
    graph_.add_node(std::move(node), {Type::contiguous(to, {size})});
  }

  ValueId put_back(const View& view, ValueId base, ValueId written) {
    Node node;
    node.kind = NodeKind::kUpdate;
    node.operands = {base, written};
    node.args = {view.type.sizes, view.type.strides, view.offset};
    const NodeId id = graph_.add_node(std::move(node), {graph_.type(base)});
    return graph_.node(id).results[0];
  }

  const char* writer() { return raises_ && below(3) == 0 ? "aten.index_put_" : "aten.add_.Tensor"; }

  // v = view(b); w = op_(v); update(b, w), mostly at once and at the same place.
  void write_view() {
    const View to = view(value(), /*may_repeat=*/false);
    Node node = op(writer(), {to.value, value()});
    if (below(2)) node.operands.pop_back(), node.args.pop_back();
    node.tied = {0};
    const Type type = graph_.type(to.value);
    const NodeId id = graph_.add_node(std::move(node), {type});
    const ValueId written = graph_.node(id).results[0];
    if (below(8) == 0) add();
    if (below(10) == 0) return;
    put_back(to, to.base, written);
    if (below(10) == 0) put_back(to, to.base, written);
    if (below(10) == 0) put_back(to, same_type(to.base), written);
  }

  ValueId same_type(ValueId as) {
    for (int tries = 0; tries < 8; ++tries) {
      const ValueId other = value();
      if (graph_.type(other) == graph_.type(as)) return other;
    }
    return as;
  }

  ValueId same_sizes(ValueId as) {
    for (int tries = 0; tries < 8; ++tries) {
      const ValueId other = value();
      if (graph_.type(other).sizes == graph_.type(as).sizes) return other;
    }
    return as;
  }

  void write_whole() {
    const ValueId to = value();
    Node node = op(writer(), {to, value()});
    node.tied = {0};
    if (below(4) == 0) node.operands.pop_back(), node.args.pop_back();
    std::vector<Type> types{graph_.type(to)};
    if (below(4) == 0) {
      node.tied.push_back(kNone);
      types.push_back(base());
    }
    graph_.add_node(std::move(node), std::move(types));
  }

  // An op over lists: values, views of them, some twice, and others that it only reads.
  void write_many() {
    std::vector<View> views;
    std::vector<ValueId> operands;
    std::vector<Type> types;
    const ValueId favourite = value();
    for (int64_t left = 1 + below(4); left > 0; --left) {
      const ValueId of = below(3) ? value() : favourite;
      views.push_back(below(2) ? view(of, false) : View{of, kNone, graph_.type(of), int64_t{0}});
      operands.push_back(views.back().value);
      types.push_back(graph_.type(operands.back()));
    }
    Node node = op("aten._foreach_add_.List", operands);
    for (size_t i = 0; i < operands.size(); ++i) node.tied.push_back(static_cast<int32_t>(i));
    for (int64_t left = below(3); left > 0; --left) node.operands.push_back(below(3) ? value() : favourite);
    const NodeId id = graph_.add_node(std::move(node), std::move(types));
    const std::vector<ValueId> written = graph_.node(id).results;
    std::vector<ValueId> now(graph_.values().size());
    for (size_t v = 0; v < now.size(); ++v) now[v] = static_cast<ValueId>(v);
    for (size_t i = 0; i < views.size(); ++i) {
      if (views[i].base == kNone) continue;
      ValueId& base = now[views[i].base];
      const ValueId whole = put_back(views[i], base, written[i]);
      if (below(2)) base = whole;
    }
  }

  // A region takes the elements of whatever fits.
  void update() {
    const View to = view(value(), /*may_repeat=*/false);
    const ValueId found = same_sizes(to.value);
    ValueId source = found;
    if (graph_.type(found).dtype != to.type.dtype) {
      const NodeId id = graph_.add_node(op("aten.any", {found}), {to.type});
      source = graph_.node(id).results[0];
    }
    put_back(to, to.base, source);
  }

  void clone() {
    const ValueId of = value();
    const Type type = graph_.type(of);
    const bool keeps = type.is_dense() && below(2);
    graph_.add_node(op("aten.clone", {of}), {keeps ? type : Type::contiguous(type.dtype, type.sizes)});
  }

  void anything() {
    std::vector<ValueId> operands;
    for (int64_t left = below(4); left > 0; --left) operands.push_back(value());
    std::vector<Type> types;
    for (int64_t left = below(4); left > 0; --left) types.push_back(base());
    graph_.add_node(op(raises_ && below(4) == 0 ? "aten.gather" : "aten.any", std::move(operands)),
                    std::move(types));
  }

  void pointwise() {
    constexpr const char* kNames[] = {"aten.relu", "aten.add.Tensor", "aten.where.self", "aten.addcmul"};
    const ValueId like = value();
    std::vector<ValueId> operands{like};
    for (int64_t left = below(3); left > 0; --left)
      operands.push_back(below(3) ? same_sizes(like) : same_type(like));
    std::swap(operands[0], operands[below(static_cast<int64_t>(operands.size()))]);
    const Type& as = graph_.type(like);
    Type type = as.is_dense() ? as : Type::contiguous(as.dtype, as.sizes);
    if (below(6) == 0) type.dtype = DType::kF64;
    graph_.add_node(op(kNames[below(4)], std::move(operands)), {std::move(type)});
  }

  RandomViews random_;
  Graph graph_;
  std::vector<int64_t> numbers_;
  std::vector<bool> donated_;
  bool raises_ = false;
};

}  // namespace moai::ir
