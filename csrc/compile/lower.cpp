#include <algorithm>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "compile/local/collective.h"
#include "compile/program.h"
#include "compile/roots.h"
#include "ir/error.h"
#include "ops/host_copies.h"
#include "ops/traits.h"

namespace moai::compile {

namespace {

using ir::Graph;
using ir::Node;
using ir::NodeId;
using ir::NodeKind;
using ir::ValueId;
using RootId = Roots::RootId;

// Results smaller than this may be of the size of a kernel's own scalars.
constexpr int64_t kSmallestReused = 64;

class Lowering {
 public:
  Lowering(Graph graph, const LowerOptions& options) : options_(options), roots_(find_roots(graph)) {
    program_.graph = std::move(graph);
  }

  Program run() {
    const Graph& graph = program_.graph;
    const auto end = static_cast<NodeId>(graph.nodes().size());
    for (NodeId id = 0; id < end; ++id) {
      if (graph.node(id).kind == NodeKind::kOp && ops::traits(graph.node(id).op).can_raise)
        last_raising_ = id;
    }
    place_.assign(roots_.last_use.size(), kNone);
    for (size_t i = 0; i < graph.inputs().size(); ++i) place_input(static_cast<int32_t>(i));
    is_output_.assign(graph.values().size(), false);
    for (const ValueId output : graph.outputs()) is_output_[output] = true;
    for (NodeId id = 0; id < end; ++id) {
      switch (graph.node(id).kind) {
        case NodeKind::kOp: ops::is_host_copy(graph.node(id).op) ? lower_host_copy(id) : lower_op(id); break;
        case NodeKind::kView: lower_view(id); break;
        case NodeKind::kUpdate: lower_update(id); break;
      }
    }
    place_outputs();
    set_lifetimes();
    return std::move(program_);
  }

 private:
  int32_t new_buffer(int64_t bytes) {
    Buffer buffer;
    buffer.bytes = bytes;
    program_.buffers.push_back(buffer);
    return static_cast<int32_t>(program_.buffers.size()) - 1;
  }

  int32_t new_access(int32_t buffer, const ir::Type& type, const Start& start = {}) {
    Access access;
    access.buffer = buffer;
    access.type = type;
    access.offset = start.bytes / ir::element_bytes(type.dtype);
    access.offset_number = start.number;
    program_.accesses.push_back(std::move(access));
    return static_cast<int32_t>(program_.accesses.size()) - 1;
  }

  void place_input(int32_t index) {
    const ValueId value = program_.graph.inputs()[index];
    const int32_t buffer = new_buffer(program_.graph.type(value).bytes());
    program_.buffers[buffer].home = Buffer::Home::kInput;
    program_.buffers[buffer].input = index;
    place_[value] = new_access(buffer, program_.graph.type(value));
    if (is_donated(index) && roots_.is_root(value))
      donated_[program_.graph.type(value).bytes()].push_back(value);
  }

  // The memory of a donated input that nobody reads any more and nothing was written to yet; kNone where
  // there is none of so many bytes. A new value of the state then costs no second copy of it.
  int32_t dead_input(int64_t bytes, NodeId id) {
    const auto all = donated_.find(bytes);
    if (id <= last_raising_ || all == donated_.end()) return kNone;
    for (auto it = all->second.begin(); it != all->second.end(); ++it) {
      const int32_t buffer = buffer_id(*it);
      if (roots_.last_use[*it] >= id || overwritten_.count(buffer) != 0) continue;
      all->second.erase(it);
      return buffer;
    }
    return kNone;
  }

  int32_t buffer_id(RootId root) const { return program_.accesses[place_[root]].buffer; }
  const Buffer& buffer_of(RootId root) const { return program_.buffers[buffer_id(root)]; }

  // May node `id` write over the memory of `value`? Only a root's: of the rest of it, others are.
  bool may_overwrite(ValueId value, NodeId id) const {
    if (!roots_.is_root(value) || roots_.last_use[value] > id) return false;
    const Buffer& buffer = buffer_of(value);
    return buffer.home != Buffer::Home::kInput || (is_donated(buffer.input) && id > last_raising_);
  }

  bool is_donated(int32_t input) const {
    return static_cast<size_t>(input) < options_.donated.size() && options_.donated[input];
  }

  void copy(NodeId id, int32_t from, int32_t to) {
    Instruction instruction;
    instruction.kind = Instruction::Kind::kCopy;
    instruction.node = id;
    instruction.operands = {from};
    instruction.results = {to};
    program_.instructions.push_back(std::move(instruction));
  }

  // A buffer of its own that holds what `value` shows, gaps between its elements included.
  int32_t copy_whole(NodeId id, ValueId value) {
    const ir::Type& type = program_.graph.type(value);
    const int32_t buffer = new_buffer(type.bytes());
    if (type.is_dense()) {
      copy(id, place_[value], new_access(buffer, type));
    } else {
      const ir::Type flat = ir::Type::contiguous(type.dtype, {type.extent()});
      copy(id, new_access(buffer_id(value), flat, start_of(value)), new_access(buffer, flat));
    }
    return buffer;
  }

  // Where a value lies in its buffer: roots are at its beginning.
  const Start& start_of(ValueId value) const { return roots_.start[value]; }

  void lower_view(NodeId id) {
    const Node& node = program_.graph.node(id);
    const ValueId result = node.results[0];
    const RootId root = roots_.root[result];
    if (place_[root] == kNone) {
      const ir::Type& type = program_.graph.type(node.operands[0]);
      const int32_t buffer = copy_whole(id, node.operands[0]);
      place_[root] = new_access(buffer, type);
    }
    place_[result] = new_access(buffer_id(root), program_.graph.type(result), start_of(result));
  }

  // Gives a tied result its memory and returns the access through which the op writes it.
  int32_t place_tied(NodeId id, ValueId operand, ValueId result) {
    const Graph& graph = program_.graph;
    const auto folded = roots_.folded.find(result);
    if (folded != roots_.folded.end()) {
      const Node& update = graph.node(folded->second);
      const ValueId base = update.operands[0];
      const ValueId whole = update.results[0];
      const int32_t buffer = is_writable(base, id) ? overwrite(buffer_id(base)) : copy_whole(id, base);
      place_[whole] = new_access(buffer, graph.type(whole));
      place_[result] = new_access(buffer, graph.type(result), start_of(result));
    } else if (is_writable(operand, id)) {
      overwrite(buffer_id(operand));
      place_[result] = place_[operand];
    } else {
      place_[result] = new_access(copy_whole(id, operand), graph.type(result));
    }
    return place_[result];
  }

  // An operand that the op sees twice must not change under its hands.
  bool is_writable(ValueId value, NodeId id) const {
    const auto uses = times_used_.find(roots_.root[value]);
    return may_overwrite(value, id) && uses != times_used_.end() && uses->second == 1;
  }

  void lower_op(NodeId id) {
    const Graph& graph = program_.graph;
    const Node& node = graph.node(id);
    Instruction instruction;
    instruction.node = id;
    instruction.results.assign(node.results.size(), kNone);
    std::vector<std::pair<int32_t, int32_t>> written;  // operand, access
    times_used_.clear();
    in_place_ = in_place_of_bucket(graph, id);
    if (!node.tied.empty() || !in_place_.empty()) {
      for (const ValueId operand : node.operands) {
        if (operand != ir::kNone) ++times_used_[roots_.root[operand]];
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
      if (operand != ir::kNone && buffer_of(roots_.root[operand]).home == Buffer::Home::kHost)
        throw Error(Phase::kCompile, concat(node.op.str(), " reads %", operand, ", which lies on the host"));
    }
    for (const auto& [operand, access] : written) instruction.operands[operand] = access;
    for (size_t r = 0; r < node.results.size(); ++r) {
      if (node.tied_operand(r) != kNone) continue;
      place_[node.results[r]] = place_fresh(id, node, r);
      instruction.results[r] = place_[node.results[r]];
    }
    program_.instructions.push_back(std::move(instruction));
  }

  // See Note [Values on the host].
  void lower_host_copy(NodeId id) {
    const Node& node = program_.graph.node(id);
    const ir::Type& type = program_.graph.type(node.results[0]);
    const int32_t buffer = new_buffer(type.bytes());
    if (node.op == ops::to_host()) program_.buffers[buffer].home = Buffer::Home::kHost;
    place_[node.results[0]] = new_access(buffer, type);
    copy(id, place_[node.operands[0]], place_[node.results[0]]);
  }

  int32_t place_fresh(NodeId id, const Node& node, size_t result) {
    const Graph& graph = program_.graph;
    const ir::Type& type = graph.type(node.results[result]);
    if (node.results.size() == 1 && ops::traits(node.op).pointwise && type.bytes() >= kSmallestReused &&
        keeps_dtype(node, type.dtype)) {
      for (const ValueId operand : node.operands) {
        if (can_become(id, operand, type) && !is_seen_otherwise(node, operand)) return place_[operand];
      }
    }
    if (!in_place_.empty() && in_place_[result]) {
      const ValueId operand = node.operands[result];
      if (times_used_.at(roots_.root[operand]) == 1 && can_become(id, operand, type)) return place_[operand];
    }
    if (is_output_[node.results[result]] && type.bytes() >= kSmallestReused) {
      const int32_t buffer = dead_input(type.bytes(), id);
      if (buffer != kNone) return new_access(overwrite(buffer), type);
    }
    return new_access(new_buffer(type.bytes()), type);
  }

  // Whether a value of the arena ends at this node, so that its memory may be a result's of this type.
  bool can_become(NodeId id, ValueId operand, const ir::Type& type) const {
    return operand != ir::kNone && roots_.is_root(operand) && program_.graph.type(operand) == type &&
           buffer_of(operand).home != Buffer::Home::kInput && may_overwrite(operand, id);
  }

  int32_t overwrite(int32_t buffer) {
    overwritten_.insert(buffer);
    return buffer;
  }

  // Does the op also read `value` through a view, at other indices than those it writes?
  bool is_seen_otherwise(const Node& node, ValueId value) const {
    return std::any_of(node.operands.begin(), node.operands.end(),
                       [&](ValueId v) { return v != ir::kNone && v != value && roots_.root[v] == value; });
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
    const ValueId base = node.operands[0];
    const ValueId source = node.operands[1];
    const ValueId whole = node.results[0];
    const auto folded = roots_.folded.find(source);
    if (folded != roots_.folded.end() && folded->second == id) return;
    const bool in_place = may_overwrite(base, id) && roots_.root[source] != base;
    const int32_t buffer = in_place ? overwrite(buffer_id(base)) : copy_whole(id, base);
    place_[whole] = new_access(buffer, graph.type(whole));
    const int32_t region = new_access(buffer, graph.type(base));
    program_.accesses[region].type.dtype = graph.type(source).dtype;
    program_.accesses[region].type.sizes = std::get<ir::Dims>(node.args[0]);
    program_.accesses[region].type.strides = std::get<ir::Dims>(node.args[1]);
    set_offset(region, node.args[2]);
    copy(id, place_[source], region);
  }

  void set_offset(int32_t access, const ir::Arg& arg) {
    if (const auto* number = std::get_if<ir::NumberRef>(&arg)) {
      program_.accesses[access].offset_number = number->index;
    } else {
      program_.accesses[access].offset = std::get<int64_t>(arg);
    }
  }

  void place_outputs() {
    const Graph& graph = program_.graph;
    const auto end = static_cast<NodeId>(graph.nodes().size());
    std::vector<bool> taken(program_.buffers.size(), false);
    for (const ValueId value : graph.outputs()) {
      int32_t buffer = buffer_id(value);
      const Buffer& now = program_.buffers[buffer];
      const bool is_ours =
          now.home != Buffer::Home::kHost && (now.home != Buffer::Home::kInput || is_donated(now.input));
      if (!is_ours || taken[buffer] || !roots_.is_root(value)) {
        buffer = copy_whole(end, value);
        taken.push_back(false);
      }
      taken[buffer] = true;
      if (program_.buffers[buffer].home == Buffer::Home::kArena)
        program_.buffers[buffer].home = Buffer::Home::kOutput;
      program_.output_buffers.push_back(buffer);
    }
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
  const Roots roots_;
  std::vector<int32_t> place_;                      // by value, and by root: access
  std::unordered_map<RootId, int32_t> times_used_;  // of the node being lowered
  std::vector<bool> in_place_;                      // likewise, of a bucket
  NodeId last_raising_ = kNone;
  std::vector<bool> is_output_;                                // by value
  std::unordered_map<int64_t, std::vector<ValueId>> donated_;  // by bytes: inputs, and not yet given away
  std::unordered_set<int32_t> overwritten_;                    // buffers that hold a value after another
};

}  // namespace

Program lower(ir::Graph graph, const LowerOptions& options) {
  return Lowering(std::move(graph), options).run();
}

}  // namespace moai::compile
