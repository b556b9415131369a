#include <algorithm>
#include <unordered_map>
#include <utility>

#include "compile/program.h"
#include "ir/error.h"
#include "ops/traits.h"

namespace moai::compile {

namespace {

using ir::Graph;
using ir::Node;
using ir::NodeId;
using ir::NodeKind;
using ir::ValueId;

// Results smaller than this may be of the size of a kernel's own scalars.
constexpr int64_t kSmallestReused = 64;

class Lowering {
 public:
  Lowering(Graph graph, const LowerOptions& options) : options_(options) {
    program_.graph = std::move(graph);
  }

  Program run() {
    find_roots_and_last_uses();
    const Graph& graph = program_.graph;
    place_.assign(graph.values().size(), kNone);
    for (size_t i = 0; i < graph.inputs().size(); ++i) place_input(static_cast<int32_t>(i));
    for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
      switch (graph.node(id).kind) {
        case NodeKind::kOp: lower_op(id); break;
        case NodeKind::kView: lower_view(id); break;
        case NodeKind::kUpdate: lower_update(id); break;
      }
    }
    place_outputs();
    set_lifetimes();
    return std::move(program_);
  }

 private:
  // The root of a view is the value whose memory it shows; every other value is its own root.
  void find_roots_and_last_uses() {
    const Graph& graph = program_.graph;
    root_.resize(graph.values().size());
    for (size_t v = 0; v < root_.size(); ++v) root_[v] = static_cast<ValueId>(v);
    last_use_.assign(graph.values().size(), kNone);
    for (NodeId id = 0; id < static_cast<NodeId>(graph.nodes().size()); ++id) {
      const Node& node = graph.node(id);
      if (node.kind == NodeKind::kView) root_[node.results[0]] = root_[node.operands[0]];
      // What an update replaces is not read by it, as far as memory is concerned.
      const size_t first = node.kind == NodeKind::kUpdate ? 1 : 0;
      for (size_t i = first; i < node.operands.size(); ++i) {
        if (node.operands[i] != ir::kNone) last_use_[root_[node.operands[i]]] = id;
      }
      if (node.kind == NodeKind::kUpdate) update_of_[node.operands[1]] = id;
      if (node.kind == NodeKind::kOp && ops::traits(node.op).can_raise) last_raising_ = id;
    }
    for (const ValueId v : graph.outputs()) last_use_[root_[v]] = static_cast<NodeId>(graph.nodes().size());
  }

  int32_t new_buffer(int64_t bytes) {
    Buffer buffer;
    buffer.bytes = bytes;
    program_.buffers.push_back(buffer);
    return static_cast<int32_t>(program_.buffers.size()) - 1;
  }

  int32_t new_access(int32_t buffer, const ir::Type& type) {
    Access access;
    access.buffer = buffer;
    access.type = type;
    program_.accesses.push_back(std::move(access));
    return static_cast<int32_t>(program_.accesses.size()) - 1;
  }

  int32_t same_view(int32_t access, int32_t buffer) {
    Access copy = program_.accesses[access];
    copy.buffer = buffer;
    program_.accesses.push_back(std::move(copy));
    return static_cast<int32_t>(program_.accesses.size()) - 1;
  }

  void place_input(int32_t index) {
    const ValueId value = program_.graph.inputs()[index];
    const int32_t buffer = new_buffer(program_.graph.type(value).bytes());
    program_.buffers[buffer].home = Buffer::Home::kInput;
    program_.buffers[buffer].input = index;
    place_[value] = new_access(buffer, program_.graph.type(value));
  }

  const Buffer& buffer_of(ValueId value) const {
    return program_.buffers[program_.accesses[place_[value]].buffer];
  }
  int32_t buffer_id(ValueId value) const { return program_.accesses[place_[value]].buffer; }

  // May node `id` write over the memory of `root`?
  bool may_overwrite(ValueId root, NodeId id) const {
    if (last_use_[root] > id) return false;
    const Buffer& buffer = buffer_of(root);
    if (buffer.home != Buffer::Home::kInput) return true;
    return static_cast<size_t>(buffer.input) < options_.donated.size() && options_.donated[buffer.input] &&
           id > last_raising_;
  }

  void copy(NodeId id, int32_t from, int32_t to) {
    Instruction instruction;
    instruction.kind = Instruction::Kind::kCopy;
    instruction.node = id;
    instruction.operands = {from};
    instruction.results = {to};
    program_.instructions.push_back(std::move(instruction));
  }

  void lower_view(NodeId id) {
    const Node& node = program_.graph.node(id);
    const ValueId result = node.results[0];
    const int32_t access = new_access(buffer_id(root_[result]), program_.graph.type(result));
    set_offset(access, node.args[0]);
    place_[result] = access;
  }

  void set_offset(int32_t access, const ir::Arg& arg) {
    if (const auto* number = std::get_if<ir::NumberRef>(&arg)) {
      program_.accesses[access].offset_number = number->index;
    } else {
      program_.accesses[access].offset = std::get<int64_t>(arg);
    }
  }

  // Gives a tied result its memory and returns the access through which the op writes it.
  int32_t place_tied(NodeId id, ValueId operand, ValueId result) {
    const Graph& graph = program_.graph;
    const ValueId root = root_[operand];
    // An operand that the op sees twice must not change under its hands.
    const bool writable = may_overwrite(root, id) && times_used_[root] == 1;
    const auto update = update_of_.find(result);
    const bool through_view = root != operand;
    if (through_view && update != update_of_.end() && graph.node(update->second).operands[0] == root) {
      // `update` puts the written view back: write the base itself, or a copy of it.
      const ValueId whole = graph.node(update->second).results[0];
      int32_t buffer = buffer_id(root);
      if (!writable) {
        buffer = new_buffer(program_.buffers[buffer].bytes);
        copy(id, place_[root], same_view(place_[root], buffer));
      }
      place_[result] = same_view(place_[operand], buffer);
      place_[whole] = same_view(place_[root], buffer);
      return place_[result];
    }
    if (!through_view && writable) {
      place_[result] = place_[root];
      return place_[result];
    }
    const int32_t buffer = new_buffer(graph.type(result).bytes());
    place_[result] = new_access(buffer, graph.type(result));
    copy(id, place_[operand], place_[result]);
    return place_[result];
  }

  void lower_op(NodeId id) {
    const Graph& graph = program_.graph;
    const Node& node = graph.node(id);
    Instruction instruction;
    instruction.node = id;
    instruction.results.assign(node.results.size(), kNone);
    std::vector<std::pair<int32_t, int32_t>> written;  // operand, access
    times_used_.clear();
    if (!node.tied.empty()) {
      for (const ValueId operand : node.operands) {
        if (operand != ir::kNone) ++times_used_[root_[operand]];
      }
    }
    for (size_t r = 0; r < node.results.size(); ++r) {
      const int32_t operand = node.tied_operand(r);
      if (operand == kNone) continue;
      const int32_t access = place_tied(id, node.operands[operand], node.results[r]);
      instruction.results[r] = access;
      written.emplace_back(operand, access);
    }
    for (const ValueId operand : node.operands) {
      instruction.operands.push_back(operand == ir::kNone ? kNone : place_[operand]);
    }
    for (const auto& [operand, access] : written) instruction.operands[operand] = access;
    for (size_t r = 0; r < node.results.size(); ++r) {
      if (node.tied_operand(r) != kNone) continue;
      place_[node.results[r]] = place_fresh(id, node, r);
      instruction.results[r] = place_[node.results[r]];
    }
    program_.instructions.push_back(std::move(instruction));
  }

  int32_t place_fresh(NodeId id, const Node& node, size_t result) {
    const Graph& graph = program_.graph;
    const ir::Type& type = graph.type(node.results[result]);
    if (node.results.size() == 1 && ops::traits(node.op).pointwise && type.bytes() >= kSmallestReused &&
        keeps_dtype(node, type.dtype)) {
      for (const ValueId operand : node.operands) {
        if (operand == ir::kNone || root_[operand] != operand || graph.type(operand) != type) continue;
        if (buffer_of(operand).home == Buffer::Home::kInput || !may_overwrite(operand, id)) continue;
        if (is_seen_otherwise(node, operand)) continue;
        return place_[operand];
      }
    }
    return new_access(new_buffer(type.bytes()), type);
  }

  // Does the op also read `value` through a view, at other indices than those it writes?
  bool is_seen_otherwise(const Node& node, ValueId value) const {
    return std::any_of(node.operands.begin(), node.operands.end(),
                       [&](ValueId v) { return v != ir::kNone && v != value && root_[v] == value; });
  }

  // A kernel that must first convert an operand does so into scratch, which is not to be mistaken
  // for its result.
  bool keeps_dtype(const Node& node, ir::DType dtype) const {
    for (const ValueId operand : node.operands) {
      if (operand == ir::kNone) continue;
      const auto theirs = program_.graph.type(operand).dtype;
      const bool condition = theirs == ir::DType::kBool && ops::traits(node.op).conditional;
      if (theirs != dtype && !condition) return false;
    }
    return true;
  }

  void lower_update(NodeId id) {
    const Graph& graph = program_.graph;
    const Node& node = graph.node(id);
    const ValueId whole = node.results[0];
    if (place_[whole] != kNone) return;  // written through its view already
    const ValueId root = root_[node.operands[0]];
    int32_t buffer = buffer_id(root);
    if (!may_overwrite(root, id)) {
      buffer = new_buffer(program_.buffers[buffer].bytes);
      copy(id, place_[root], same_view(place_[root], buffer));
    }
    // The base may itself be a view of its root, laid out otherwise.
    place_[whole] = same_view(place_[node.operands[0]], buffer);
    const int32_t region = new_access(buffer, graph.type(node.operands[1]));
    program_.accesses[region].type.sizes = std::get<std::vector<int64_t>>(node.args[0]);
    program_.accesses[region].type.strides = std::get<std::vector<int64_t>>(node.args[1]);
    set_offset(region, node.args[2]);
    copy(id, place_[node.operands[1]], region);
  }

  void place_outputs() {
    const Graph& graph = program_.graph;
    const auto end = static_cast<NodeId>(graph.nodes().size());
    std::vector<bool> taken(program_.buffers.size(), false);
    for (const ValueId value : graph.outputs()) {
      int32_t buffer = buffer_id(value);
      const Buffer& now = program_.buffers[buffer];
      const bool foreign = now.home == Buffer::Home::kInput && !may_overwrite_at_end(now.input);
      if (foreign || taken[buffer] || root_[value] != value) {
        buffer = new_buffer(graph.type(value).bytes());
        taken.push_back(false);
        copy(end, place_[value], new_access(buffer, graph.type(value)));
      }
      taken[buffer] = true;
      if (program_.buffers[buffer].home == Buffer::Home::kArena)
        program_.buffers[buffer].home = Buffer::Home::kOutput;
      program_.output_buffers.push_back(buffer);
    }
  }

  bool may_overwrite_at_end(int32_t input) const {
    return static_cast<size_t>(input) < options_.donated.size() && options_.donated[input];
  }

  void set_lifetimes() {
    const auto touch = [this](int32_t access, int32_t at) {
      if (access == kNone) return;
      Buffer& buffer = program_.buffers[program_.accesses[access].buffer];
      if (buffer.first == kNone) buffer.first = at;
      buffer.last = at;
    };
    for (size_t i = 0; i < program_.instructions.size(); ++i) {
      for (const int32_t access : program_.instructions[i].operands) touch(access, static_cast<int32_t>(i));
      for (const int32_t access : program_.instructions[i].results) touch(access, static_cast<int32_t>(i));
    }
  }

  const LowerOptions& options_;
  Program program_;
  std::vector<ValueId> root_;                        // by value
  std::vector<NodeId> last_use_;                     // by root: last node that reads it or a view of it
  std::vector<int32_t> place_;                       // by value: access
  std::unordered_map<ValueId, NodeId> update_of_;    // by written value: the update that puts it back
  std::unordered_map<ValueId, int32_t> times_used_;  // of the node being lowered, by root
  NodeId last_raising_ = kNone;
};

}  // namespace

Program lower(ir::Graph graph, const LowerOptions& options) {
  return Lowering(std::move(graph), options).run();
}

}  // namespace moai::compile
