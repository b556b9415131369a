#include "ir/graph.h"

#include <utility>

namespace moai::ir {

ValueId Graph::add_input(Type type) {
  const auto id = static_cast<ValueId>(values_.size());
  values_.push_back({std::move(type), kNone, static_cast<int32_t>(inputs_.size())});
  inputs_.push_back(id);
  return id;
}

NodeId Graph::add_node(Node node, std::vector<Type> result_types) {
  const auto id = static_cast<NodeId>(nodes_.size());
  node.results.resize(result_types.size());
  for (size_t i = 0; i < result_types.size(); ++i) {
    node.results[i] = static_cast<ValueId>(values_.size());
    values_.push_back({std::move(result_types[i]), id, static_cast<int32_t>(i)});
  }
  nodes_.push_back(std::move(node));
  return id;
}

}  // namespace moai::ir
