#include "compile/chunk/chunk_writer.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "ir/call_node.h"
#include "ir/error.h"

namespace moai::compile {

namespace {

using ir::Arg;
using ir::Dims;
using ir::DType;
using ir::Graph;
using ir::Node;
using ir::NodeId;
using ir::NodeKind;
using ir::Type;
using ir::ValueId;
using Kind = Given::Kind;

bool is_half(DType dtype) { return dtype == DType::kF16 || dtype == DType::kBF16; }

class ChunkWriter {
 public:
  ChunkWriter(const TargetWeights& weights, const Readers& readers, const RowGroup& group, int64_t most_bytes,
              Graph* out, std::vector<ValueId>* renamed)
      : weights_(weights),
        graph_(weights.graph),
        readers_(readers),
        group_(group),
        most_bytes_(most_bytes),
        out_(*out),
        renamed_(*renamed) {
    find_wanted();
  }

  void run() {
    const int64_t most_rows = std::max<int64_t>(most_bytes_ / (group_.widest_bytes / group_.rows), 1);
    const int64_t chunks = (group_.rows + most_rows - 1) / most_rows;
    int64_t start = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      chunk_.clear();
      parts_.clear();
      start_ = start;
      length_ = group_.rows / chunks + (chunk < group_.rows % chunks ? 1 : 0);
      for (const RowNode& read : group_.nodes) write(read);
      start += length_;
    }
    MOAI_ASSERT(start == group_.rows, "chunks have ", start, " of ", group_.rows, " rows");
    for (const RowNode& read : group_.nodes) finish(read);
  }

 private:
  // What others read. A view of theirs is of the whole value that it is a view of.
  void find_wanted() {
    wanted_.assign(graph_.values().size(), false);
    std::vector<bool> is_member(graph_.nodes().size(), false);
    for (const RowNode& read : group_.nodes) is_member[read.id] = true;
    for (auto read = group_.nodes.rbegin(); read != group_.nodes.rend(); ++read) {
      const Node& node = graph_.node(read->id);
      for (const ValueId result : node.results) {
        const auto& nodes = readers_.of(result);
        const bool is_read =
            std::any_of(nodes.begin(), nodes.end(), [&](NodeId reader) { return !is_member[reader]; });
        if (is_read || readers_.is_output(result)) wanted_[result] = true;
      }
      const bool is_seen_whole = node.kind == NodeKind::kView || read->is_cast;
      if (is_seen_whole && wanted_[node.results[0]]) wanted_[node.operands[0]] = true;
    }
  }

  ValueId add(const char* op, std::vector<ValueId> operands, const std::vector<Arg>& more, Type result,
              std::vector<int32_t> tied = {}) {
    Node node = ir::call_node(ir::Symbol::intern(op), std::move(operands), more);
    node.tied = std::move(tied);
    return add(std::move(node), {std::move(result)})[0];
  }

  std::vector<ValueId> add(Node node, std::vector<Type> results) {
    node.section = source_->section;
    node.origin = source_->origin;
    node.results.clear();
    return out_.node(out_.add_node(std::move(node), std::move(results))).results;
  }

  ValueId view(ValueId value, Type type, int64_t offset) {
    Node node;
    node.kind = NodeKind::kView;
    node.operands = {value};
    node.args = {offset};
    return add(std::move(node), {std::move(type)})[0];
  }

  ValueId to_dtype(ValueId value, DType dtype) {
    Type type = out_.type(value);
    if (type.dtype == dtype) return value;
    type.dtype = dtype;
    return add("aten._to_copy", {value}, ir::to_dtype_args(dtype), std::move(type));
  }

  ValueId add_to(ValueId sum, ValueId part) {
    const Type type = out_.type(sum);
    return add("aten.add_.Tensor", {sum, part}, {int64_t{1}}, type, {0});
  }

  // An operand's part that this chunk takes.
  ValueId part_of(ValueId value, const Taken& taken) {
    const auto made = chunk_.find(value);
    if (made != chunk_.end()) return made->second;
    const ValueId whole = renamed_[value];
    if (!taken.by_rows) {
      const Type& type = out_.type(whole);
      if (type.sizes.size() <= 2) return whole;
      // Dims of one before the columns; of a chunk there are fewer.
      return view(whole, {type.dtype, {type.sizes.back()}, {type.strides.back()}}, 0);
    }
    const auto known = parts_.find(value);
    if (known != parts_.end()) return known->second;
    const Type& type = out_.type(whole);
    const auto stride = stride_of_rows(type, taken);
    MOAI_ASSERT(stride, "the rows of ", type.str(), " are not one dim");
    Type part{type.dtype, {}, {}};
    for (size_t d = 0; d < type.sizes.size(); ++d) {
      if (d > taken.first_dim && d < taken.end_dim) continue;
      part.sizes.push_back(d == taken.first_dim ? length_ : type.sizes[d]);
      part.strides.push_back(d == taken.first_dim ? *stride : type.strides[d]);
    }
    return parts_[value] = view(whole, std::move(part), start_ * *stride);
  }

  Type type_of(ValueId result, const Given& given) const {
    const Type& type = graph_.type(result);
    if (given.kind == Kind::kTransposed) return {type.dtype, {group_.columns, length_}, {1, group_.columns}};
    if (given.kind != Kind::kRows) return type;
    Dims sizes{length_};
    sizes.insert(sizes.end(), given.rest.begin(), given.rest.end());
    return Type::contiguous(type.dtype, std::move(sizes));
  }

  void write(const RowNode& read) {
    const Node& node = graph_.node(read.id);
    source_ = &node;
    if (read.is_cast) return;
    if (node.kind == NodeKind::kView) return write_view(read, node);
    Node made = node;
    made.args = read.args;
    for (size_t o = 0; o < node.operands.size(); ++o) {
      if (node.operands[o] != ir::kNone) made.operands[o] = part_of(node.operands[o], read.operands[o]);
    }
    const bool is_product_of_all = read.results[0].kind == Kind::kSum && node.op.str() == "aten.mm";
    if (is_product_of_all && wanted_[node.results[0]]) return add_product(node.results[0], made);
    std::vector<Type> types;
    for (size_t r = 0; r < node.results.size(); ++r)
      types.push_back(type_of(node.results[r], read.results[r]));
    // A chunk of what was no whole value may be one already.
    const bool is_needless = node.op.str() == "aten.clone" && out_.type(made.operands[0]) == types[0];
    const std::vector<ValueId> results =
        is_needless ? std::vector<ValueId>{made.operands[0]} : add(std::move(made), std::move(types));
    for (size_t r = 0; r < results.size(); ++r) {
      const ValueId result = node.results[r];
      const Kind kind = read.results[r].kind;
      // A sum is there for a loss's backward that does not use it.
      chunk_[result] = results[r];
      if (!wanted_[result]) continue;
      kind == Kind::kRows ? put(result, results[r]) : sum_up(result, results[r]);
    }
  }

  void write_view(const RowNode& read, const Node& node) {
    const ValueId base = part_of(node.operands[0], read.operands[0]);
    const Type type = type_of(node.results[0], read.results[0]);
    chunk_[node.results[0]] = out_.type(base) == type ? base : view(base, type, 0);
  }

  void add_product(ValueId value, const Node& product) {
    const Type& type = graph_.type(value);
    const auto factor = [&](size_t arg) {
      return product.operands[std::get<ir::OperandRef>(product.args[arg]).operand];
    };
    if (is_half(type.dtype)) return add_rounded_product(value, factor(0), factor(1));
    const auto known = wholes_.find(value);
    if (known == wholes_.end()) {
      wholes_[value] = add("aten.mm", {factor(0), factor(1)}, {}, type);
    } else {
      const ValueId sum = known->second;
      known->second = add("aten.addmm_", {sum, factor(0), factor(1)}, {int64_t{1}, int64_t{1}}, type, {0});
    }
  }

  // A product is a value of its own here, beside the sum: some of its rows at a time.
  void add_rounded_product(ValueId value, ValueId left, ValueId right) {
    const Type& type = graph_.type(value);
    const Type sum_type = Type::contiguous(DType::kF32, type.sizes);
    const bool is_first = wholes_.count(value) == 0;
    if (is_first) wholes_[value] = add("moai.undefined", {}, {}, sum_type);
    ValueId& sum = wholes_[value];
    const int64_t row_bytes = type.sizes[1] * ir::element_bytes(DType::kF32);
    const int64_t most_rows = std::max<int64_t>(most_bytes_ / std::max<int64_t>(row_bytes, 1), 1);
    for (int64_t row = 0; row < type.sizes[0]; row += most_rows) {
      const Type all = out_.type(left);
      const Dims sizes{std::min(most_rows, type.sizes[0] - row), type.sizes[1]};
      const ValueId some =
          view(left, {all.dtype, {sizes[0], all.sizes[1]}, all.strides}, row * all.strides[0]);
      const ValueId product = add("aten.mm", {some, right}, {}, Type::contiguous(type.dtype, sizes));
      const int64_t offset = row * type.sizes[1];
      const ValueId added = is_first
                                ? to_dtype(product, DType::kF32)
                                : add_to(view(sum, Type::contiguous(DType::kF32, sizes), offset), product);
      sum = update(sum, added, offset);
    }
  }

  ValueId update(ValueId whole, ValueId part, int64_t offset) {
    const Type type = out_.type(part);
    Node node;
    node.kind = NodeKind::kUpdate;
    node.operands = {whole, part};
    node.args = {type.sizes, type.strides, offset};
    return add(std::move(node), {out_.type(whole)})[0];
  }

  // Rows of a value that others read whole.
  void put(ValueId value, ValueId rows) {
    const auto known = wholes_.find(value);
    const ValueId whole =
        known != wholes_.end() ? known->second : add("moai.undefined", {}, {}, graph_.type(value));
    wholes_[value] = update(whole, rows, start_ * (out_.type(rows).numel() / length_));
  }

  void sum_up(ValueId value, ValueId part) {
    const auto known = wholes_.find(value);
    if (known != wholes_.end()) {
      known->second = add_to(known->second, part);
    } else {
      wholes_[value] = is_half(out_.type(part).dtype) ? to_dtype(part, DType::kF32) : part;
    }
  }

  void finish(const RowNode& read) {
    const Node& node = graph_.node(read.id);
    source_ = &node;
    for (size_t r = 0; r < node.results.size(); ++r) {
      const ValueId result = node.results[r];
      if (!wanted_[result]) continue;
      if (node.kind == NodeKind::kView) {
        renamed_[result] = view(renamed_[node.operands[0]], graph_.type(result), 0);
        continue;
      }
      if (read.is_cast) {
        renamed_[result] = wholes_.at(node.operands[0]);
        continue;
      }
      ValueId whole = wholes_.at(result);
      if (read.results[r].kind == Kind::kMean) {
        const Type type = out_.type(whole);
        const ValueId weight = to_dtype(renamed_[weights_.of_loss.at(read.id)], type.dtype);
        whole = add("aten.div.Tensor", {whole, weight}, {}, type);
      }
      renamed_[result] = to_dtype(whole, graph_.type(result).dtype);
    }
  }

  const TargetWeights& weights_;
  const Graph& graph_;
  const Readers& readers_;
  const RowGroup& group_;
  const int64_t most_bytes_;
  Graph& out_;
  std::vector<ValueId>& renamed_;
  std::vector<bool> wanted_;  // by value
  const Node* source_ = nullptr;
  int64_t start_ = 0;  // of the chunk's rows
  int64_t length_ = 0;
  std::unordered_map<ValueId, ValueId> chunk_;   // by value: what the chunk has made of it
  std::unordered_map<ValueId, ValueId> parts_;   // by value of others: its rows
  std::unordered_map<ValueId, ValueId> wholes_;  // by value that others read: what there is so far
};

}  // namespace

void write_chunks(const TargetWeights& weights, const Readers& readers, const RowGroup& group,
                  int64_t most_bytes, Graph* out, std::vector<ValueId>* renamed) {
  ChunkWriter(weights, readers, group, most_bytes, out, renamed).run();
}

}  // namespace moai::compile
