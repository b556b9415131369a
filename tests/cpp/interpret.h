// What a graph computes, on made-up elements: the yardstick for passes.
//
// An element is a 64-bit word. Inputs hold words of their own; an op makes its results' words from its
// name, its arguments and all its operands' words; views and updates move words as they say. Two graphs
// that compute the same give the same words, and others, in all likelihood, do not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "catch.h"
#include "ir/arg.h"
#include "ir/graph.h"
#include "ir/view.h"
#include "random_views.h"

namespace moai::ir {

using Words = std::vector<uint64_t>;

class Interpreter {
 public:
  explicit Interpreter(const Graph& graph, std::vector<int64_t> numbers = {})
      : graph_(graph), numbers_(std::move(numbers)), memory_(graph.values().size()) {}

  // The words of each output, in row-major order.
  std::vector<Words> run() {
    for (size_t i = 0; i < graph_.inputs().size(); ++i) fill(graph_.inputs()[i], mix(1, i));
    for (const Node& node : graph_.nodes()) run(node);
    std::vector<Words> outputs;
    for (const ValueId output : graph_.outputs()) outputs.push_back(elements(output));
    return outputs;
  }

 private:
  static int64_t address(const Dims& index, const Dims& strides, int64_t offset) {
    return std::inner_product(index.begin(), index.end(), strides.begin(), offset);
  }

  Words elements(ValueId id) const {
    Words words;
    for_each_index(graph_.type(id).sizes, [&](const Dims& index) {
      words.push_back(memory_[id].at(address(index, graph_.type(id).strides, 0)));
    });
    return words;
  }

  void store(ValueId id, const Words& words) {
    memory_[id].assign(graph_.type(id).extent(), 0);
    size_t next = 0;
    for_each_index(graph_.type(id).sizes, [&](const Dims& index) {
      memory_[id].at(address(index, graph_.type(id).strides, 0)) = words.at(next++);
    });
  }

  void fill(ValueId id, uint64_t seed) {
    Words words(graph_.type(id).numel());
    for (size_t i = 0; i < words.size(); ++i) words[i] = mix(seed, i);
    store(id, words);
  }

  int64_t offset(const Arg& arg) const {
    if (const auto* fixed = std::get_if<int64_t>(&arg)) return *fixed;
    return numbers_.at(std::get<NumberRef>(arg).index);
  }

  void run(const Node& node) {
    const std::string& op = node.op.str();
    if (node.kind == NodeKind::kView) {
      show(node.operands[0], offset(node.args[0]), node.results[0]);
    } else if (node.kind == NodeKind::kUpdate) {
      update(node);
    } else if (op == "aten.clone" || op == "aten._to_copy") {
      store(node.results[0], elements(node.operands[0]));
    } else if (op.rfind("moai.", 0) == 0) {
      step(node);
    } else {
      compute(node);
    }
  }

  void show(ValueId operand, int64_t offset, ValueId result) {
    const auto begin = memory_[operand].begin() + offset;
    const int64_t extent = graph_.type(result).extent();
    REQUIRE((extent == 0 || offset + extent <= static_cast<int64_t>(memory_[operand].size())));
    memory_[result] = extent == 0 ? Words() : Words(begin, begin + extent);
  }

  void update(const Node& node) {
    Words memory = memory_[node.operands[0]];
    const Words source = elements(node.operands[1]);
    size_t next = 0;
    for_each_index(std::get<Dims>(node.args[0]), [&](const Dims& index) {
      memory.at(address(index, std::get<Dims>(node.args[1]), offset(node.args[2]))) = source.at(next++);
    });
    memory_[node.results[0]] = memory;
  }

  void step(const Node& node) {
    ViewStep step{};
    const std::string& op = node.op.str();
    if (op == "moai.slice") {
      step.kind = ViewStep::Kind::kSlice;
      for (size_t i = 1; i < node.args.size(); ++i) step.dims.push_back(std::get<int64_t>(node.args[i]));
    } else {
      step.kind = op == "moai.reshape"   ? ViewStep::Kind::kReshape
                  : op == "moai.permute" ? ViewStep::Kind::kPermute
                                         : ViewStep::Kind::kExpand;
      step.dims = std::get<Dims>(node.args.at(1));
    }
    Type type;
    int64_t offset = 0;
    REQUIRE(apply_steps(graph_.type(node.operands[0]), {step}, &type, &offset));
    REQUIRE(type.sizes == graph_.type(node.results[0]).sizes);
    show(node.operands[0], offset, node.results[0]);
  }

  void compute(const Node& node) {
    uint64_t hash = mix_text(0, node.op.str());
    for (const Arg& arg : node.args) hash = mix_arg(hash, arg);
    for (const ValueId operand : node.operands) {
      for (const uint64_t word : elements(operand)) hash = mix(hash, word);
    }
    for (size_t r = 0; r < node.results.size(); ++r) fill(node.results[r], mix(hash, r));
  }

  const Graph& graph_;
  std::vector<int64_t> numbers_;
  std::vector<Words> memory_;  // per value, by address from its first element
};

inline std::vector<Words> interpret(const Graph& graph, const std::vector<int64_t>& numbers = {}) {
  return Interpreter(graph, numbers).run();
}

}  // namespace moai::ir
