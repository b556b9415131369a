#include "plan/fold.h"

#include <algorithm>
#include <map>

#include "ir/arg.h"

namespace moai::plan {

namespace {

constexpr size_t kLongList = 12;

// What a node computes, its neighbours left out. Numbers of the step count by kind of argument alone: equal
// layers have them at other positions.
uint64_t own_hash(const ir::Graph& graph, const Frame& frame, size_t n) {
  const ir::Node& node = graph.nodes()[n];
  uint64_t hash = ir::mix_text(static_cast<uint64_t>(node.section == ir::Section::kBackward), node.op.str());
  hash = ir::mix(hash, static_cast<uint64_t>(node.kind));
  hash = ir::mix_static(hash, node.args);
  for (const auto value : node.results) hash = ir::mix_type(hash, graph.type(value));
  for (const auto tied : node.tied) hash = ir::mix(hash, ir::bits(tied));
  for (const auto& factor : frame.node_factors[n]) {
    for (const auto atom : factor) hash = ir::mix(hash, ir::bits(frame.atoms.size(atom)));
    hash = ir::mix(hash, factor.size());
  }
  return hash;
}

uint64_t input_hash(const ir::Graph& graph, const Frame& frame, ir::ValueId value) {
  uint64_t hash = ir::mix_type(0x1f, graph.type(value));
  for (const auto& dim : frame.value_dims[value]) {
    for (const auto atom : dim) hash = ir::mix(hash, ir::bits(frame.atoms.size(atom)));
    hash = ir::mix(hash, dim.size());
  }
  return hash;
}

}  // namespace

Fold fold(const ir::Graph& graph, const Frame& frame, int32_t rounds) {
  const size_t nodes = graph.nodes().size(), inputs = graph.inputs().size();
  // One list for both: nodes first.
  std::vector<uint64_t> colour(nodes + inputs);
  for (size_t n = 0; n < nodes; ++n) colour[n] = own_hash(graph, frame, n);
  std::vector<size_t> maker(graph.values().size(), 0);
  std::vector<uint64_t> result_index(graph.values().size(), 0);
  for (size_t i = 0; i < inputs; ++i) {
    maker[graph.inputs()[i]] = nodes + i;
    colour[nodes + i] = input_hash(graph, frame, graph.inputs()[i]);
  }
  for (const auto& hint : graph.hints()) {
    auto& hash = colour[nodes + static_cast<size_t>(hint.input)];
    hash = ir::mix_text(ir::mix(hash, ir::bits(hint.dim)), hint.axis.str());
  }
  for (size_t n = 0; n < nodes; ++n) {
    for (size_t r = 0; r < graph.nodes()[n].results.size(); ++r) {
      maker[graph.nodes()[n].results[r]] = n;
      result_index[graph.nodes()[n].results[r]] = r;
    }
  }
  for (const auto output : graph.outputs())
    colour[maker[output]] = ir::mix(colour[maker[output]], 0x0f + result_index[output]);
  // By node or input, where its users begin in one list of all.
  std::vector<size_t> first_user(colour.size() + 1, 0);
  for (const auto& node : graph.nodes()) {
    for (const auto operand : node.operands) ++first_user[maker[operand] + 1];
  }
  for (size_t i = 0; i < colour.size(); ++i) first_user[i + 1] += first_user[i];
  std::vector<uint64_t> users(first_user.back()), next;
  for (int32_t round = 0; round < rounds; ++round) {
    next = colour;
    std::vector<size_t> at(first_user.begin(), first_user.end() - 1);
    for (size_t n = 0; n < nodes; ++n) {
      const auto& operands = graph.nodes()[n].operands;
      for (size_t o = 0; o < operands.size(); ++o) {
        const size_t from = maker[operands[o]];
        next[n] = ir::mix(ir::mix(next[n], colour[from]), result_index[operands[o]]);
        // A long list's elements are alike (the norms of all gradients, stacked), wherever they stand.
        const uint64_t place = operands.size() > kLongList ? 0 : o;
        users[at[from]++] = ir::mix(ir::mix(colour[n], place), result_index[operands[o]]);
      }
    }
    for (size_t i = 0; i < colour.size(); ++i) {
      const auto begin = users.begin() + static_cast<std::ptrdiff_t>(first_user[i]);
      const auto end = users.begin() + static_cast<std::ptrdiff_t>(first_user[i + 1]);
      std::sort(begin, end);
      for (auto user = begin; user != end; ++user) next[i] = ir::mix(next[i], *user);
    }
    std::swap(colour, next);
  }
  Fold out;
  std::map<uint64_t, int32_t> number;
  const auto number_of = [&](size_t i) {
    const auto it = number.emplace(colour[i], static_cast<int32_t>(out.count.size()));
    if (it.second) {
      out.count.push_back(0);
      out.first_node.push_back(i < nodes ? static_cast<ir::NodeId>(i) : ir::kNone);
      out.first_input.push_back(i < nodes ? ir::kNone : static_cast<int32_t>(i - nodes));
    }
    ++out.count[it.first->second];
    return it.first->second;
  };
  for (size_t i = 0; i < inputs; ++i) out.of_input.push_back(number_of(nodes + i));
  for (size_t n = 0; n < nodes; ++n) out.of_node.push_back(number_of(n));
  return out;
}

}  // namespace moai::plan
