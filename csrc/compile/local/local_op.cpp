#include "compile/local/local_op.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "compile/local/expert_rows.h"
#include "compile/local/factor_parts.h"
#include "compile/local/grouped_product.h"
#include "compile/local/halo_exchange.h"
#include "compile/local/routed_rows.h"
#include "compile/local/row_exchange.h"
#include "compile/local/row_order.h"
#include "ir/error.h"
#include "ir/view_nodes.h"
#include "ops/expert_rows.h"
#include "ops/routed_rows.h"
#include "ops/traits.h"

namespace moai::compile {

// Note [Local ops]
// Most ops do to parts what they do to the whole: only arguments that are sizes change. Where a factor is
// split that an op must know its place in (ops::Position), its indices are shifted to the part and what lies
// outside is masked; where a row is split that an op goes over as a whole (ops::Exchange), it becomes the
// steps of its definition, with all-reduces of a number a row between them.

namespace {

using ir::Dims;
using ir::Type;
using ir::ValueId;
using ops::Position;

class WriteLocal {
 public:
  WriteLocal(LocalBuilder& builder, const LocalOp& op, std::vector<ValueId> operands)
      : b_(builder), op_(op), parts_(op), operands_(std::move(operands)), args_(op.node.args) {}

  std::vector<ValueId> run() {
    for (const auto& local : op_.rule.local_args) set_local(local);
    for (const auto operand : op_.rule.averaged) take_share(operand);
    for (size_t f = 0; f < op_.rule.factors.size(); ++f) {
      if (!parts_.is_split(f)) continue;
      if (op_.rule.factors[f].exchange != ops::Exchange::kNone)
        return {exchange_rows(b_, op_.rule.factors[f], parts_.axes(f), operands_,
                              op_.whole.type(op_.node.results[0]).dtype)};
      if (op_.rule.factors[f].position == Position::kOnlyPosition) return cut_whole();
    }
    if (op_.node.op.str() == "aten._grouped_mm") return {grouped(op_.node)};
    if (op_.node.op == ops::routed_rows().grouped_mm)
      return {grouped_rows({0, std::get<int64_t>(op_.node.args[3])})};
    if (op_.node.op == ops::expert_rows().mm) return {grouped_rows(own_experts(op_))};
    if (ops::is_routed_rows(op_.node.op)) return routed_rows(b_, op_.node, operands_, result_types());
    if (ops::is_expert_rows(op_.node.op)) return expert_rows(b_, op_, operands_);
    for (size_t f = 0; f < op_.rule.factors.size(); ++f) {
      if (op_.turn.leaf_of(op_.factors[f]) < 0 || parts_.is_split(f)) continue;
      if (op_.rule.factors[f].position == Position::kOnlyPosition) return cut_whole();
      if (op_.rule.factors[f].position == Position::kSampled) sampled();
    }
    for (size_t f = 0; f < op_.rule.factors.size(); ++f) {
      if (!parts_.is_split(f)) continue;
      check_indices(f);
      position(f);
      if (op_.rule.factors[f].window.over >= 0) see(f);
    }
    auto results = add_node();
    give_back(&results);
    for (const auto& hidden : hidden_) results[0] = hide(results[0], hidden);
    return results;
  }

  // The weight of the targets that lie in this device's classes.
  ValueId target_weight(ValueId target, ValueId weights) {
    size_t f = 0;
    while (f < op_.rule.factors.size() && op_.rule.factors[f].position != Position::kTarget) ++f;
    if (f == op_.rule.factors.size()) fail("no factor of its rule is the classes");
    const Part part = parts_.run_of(f);
    const auto boolean = ir::DType::kBool;
    const int64_t ignored = arg<int64_t>(op_.rule.factors[f].position_to);
    ValueId skipped = b_.pointwise("aten.eq.Scalar", {target}, {ignored}, boolean);
    if (parts_.is_split(f)) {
      const ValueId below = b_.pointwise("aten.lt.Scalar", {target}, {part.start}, boolean);
      const ValueId above = b_.pointwise("aten.ge.Scalar", {target}, {part.start + part.length}, boolean);
      skipped = b_.pointwise("aten.bitwise_or.Tensor", {skipped, below});
      skipped = b_.pointwise("aten.bitwise_or.Tensor", {skipped, above});
    }
    const Type& total = op_.whole.type(op_.node.results[1]);
    ValueId each = ir::kNone;
    if (weights == ir::kNone) {
      each = b_.to_dtype(b_.pointwise("aten.logical_not", {skipped}), total.dtype);
    } else {
      ValueId index = b_.pointwise("aten.sub.Scalar", {target}, {part.start, int64_t{1}});
      index = b_.pointwise("aten.masked_fill.Scalar", {index, skipped}, {int64_t{0}});
      const Dims flat{b_.type(index).numel()};
      each = b_.add("aten.take", {weights, b_.reshape(b_.contiguous(index), flat)}, {},
                    Type::contiguous(total.dtype, flat));
      each = b_.pointwise("aten.masked_fill.Scalar", {each, b_.reshape(b_.contiguous(skipped), flat)},
                          {int64_t{0}});
    }
    return b_.add("aten.sum", {each}, {ir::NoneArg{}}, total);
  }

 private:
  template <typename T>
  T& arg(int32_t index) {
    T* value =
        index >= 0 && static_cast<size_t>(index) < args_.size() ? std::get_if<T>(&args_[index]) : nullptr;
    if (value == nullptr) fail(concat("argument ", index, " is no static one"));
    return *value;
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw Error(Phase::kCompile, concat(op_.node.op.str(), " has no local form here: ", what))
        .detail(ir::print(op_.whole, op_.whole.value(op_.node.results[0]).producer));
  }

  void set_local(const ops::LocalArg& local) {
    if (local.arg < 0 || static_cast<size_t>(local.arg) >= args_.size()) return;
    int64_t size = local.times;
    bool is_whole = true;
    for (const auto f : local.factors) {
      size *= parts_.size(f);
      is_whole = is_whole && !parts_.is_split(f) && op_.turn.leaf_of(op_.factors[f]) < 0;
    }
    if (is_whole) return;
    if (local.element >= 0) {
      arg<Dims>(local.arg)[local.element] = size;
    } else {
      args_[local.arg] = size;
    }
  }

  // Of a mean's gradient.
  void take_share(int32_t operand) {
    double share = 1;
    for (size_t f = 0; f < op_.rule.factors.size(); ++f)
      share *= static_cast<double>(parts_.size(f)) / static_cast<double>(op_.rule.factors[f].size);
    if (share != 1) operands_[operand] = b_.pointwise("aten.mul.Scalar", {operands_[operand]}, {share});
  }

  // --- Nodes --------------------------------------------------------------------------------------

  Dims local_sizes(size_t result) const {
    const auto value = op_.node.results[result];
    Dims sizes =
        sizes_of(parts_of(op_.place, plan::leaf_sizes(op_.frame, value), op_.option.results[result]));
    for (const auto& halo : halos_) {
      const int64_t dim = dim_of(op_.rule.results[result], halo.over);
      if (dim >= 0) sizes[dim] = halo.exchange.seen().length;
    }
    return sizes;
  }

  bool operands_are_whole() const {
    for (size_t o = 0; o < op_.node.operands.size(); ++o) {
      if (b_.type(operands_[o]) != op_.whole.type(op_.node.operands[o])) return false;
    }
    return true;
  }

  // As torch would lay it out: a view over its operand, an operand that is written, or dense in the order
  // that the whole result has.
  Type result_type(size_t r) const {
    const Type& whole = op_.whole.type(op_.node.results[r]);
    const int32_t tied = op_.node.tied_operand(r);
    if (tied != ir::kNone) return b_.type(operands_[tied]);
    if (op_.node.kind == ir::NodeKind::kUpdate) return b_.type(operands_[0]);
    Dims sizes = local_sizes(r);
    if (const auto step = ir::step_of(op_.node.op, args_)) {
      if (sizes == whole.sizes && operands_are_whole()) return whole;
      Type type;
      int64_t offset = 0;
      if (ir::apply_steps(b_.type(operands_[0]), {*step}, &type, &offset) && type.sizes == sizes) return type;
      MOAI_ASSERT(step->kind == ir::ViewStep::Kind::kReshape, "a local view of other sizes");
      return Type::contiguous(whole.dtype, std::move(sizes));
    }
    return sizes == whole.sizes ? whole : dense_like(whole, std::move(sizes));
  }

  std::vector<ValueId> add_node() {
    ir::Node node = op_.node;
    node.results.clear();
    node.args = args_;
    const bool base_is_whole =
        node.kind == ir::NodeKind::kOp || b_.type(operands_[0]) == op_.whole.type(op_.node.operands[0]);
    if (node.kind == ir::NodeKind::kUpdate && !base_is_whole) {
      // What is split is written as a whole: see say_update.
      const Type& source = b_.type(operands_[1]);
      if (source.sizes != b_.type(operands_[0]).sizes) fail("its operand is laid out otherwise");
      node.args[0] = source.sizes;
      node.args[1] = ir::contiguous_strides(source.sizes);
    } else if (node.kind == ir::NodeKind::kView && !base_is_whole) {
      fail("its operand is laid out otherwise");
    }
    node.operands = operands_;
    return b_.graph().node(b_.graph().add_node(std::move(node), result_types())).results;
  }

  std::vector<Type> result_types() const {
    std::vector<Type> types;
    for (size_t r = 0; r < op_.node.results.size(); ++r) types.push_back(result_type(r));
    return types;
  }

  // --- Halos --------------------------------------------------------------------------------------

  struct SeenFactor {
    int32_t over;
    HaloExchange exchange;
  };

  // A result that is indices into what the device sees.
  struct FoundIndex {
    int32_t result = ir::kNone;
    int64_t inner = 1;
    int64_t dilation = 1;
  };

  // -1: the tensor lacks the factor.
  static int64_t dim_of(const ops::TensorFactors& tensor, int32_t factor) {
    const auto at = std::find(tensor.begin(), tensor.end(), std::vector<int32_t>{factor});
    return at == tensor.end() ? -1 : at - tensor.begin();
  }

  // The size of a factor, and of what lies within its outermost atom.
  std::pair<int64_t, int64_t> sizes_of_factor(size_t f) const {
    int64_t inner = 1;
    for (size_t k = 1; k < op_.factors[f].size(); ++k) inner *= op_.frame.atoms.size(op_.factors[f][k]);
    return {op_.frame.atoms.size(op_.factors[f][0]) * inner, inner};
  }

  // Gives the op what the windows of its part see, instead of padding.
  void see(size_t f) {
    const ops::Window& window = op_.rule.factors[f].window;
    const auto [seen, seen_inner] = sizes_of_factor(static_cast<size_t>(window.over));
    const auto [seers, seers_inner] = sizes_of_factor(f);
    const auto by = parts_.axes(f, 0);
    const auto [own, parts] = op_.place.index(by);
    halos_.push_back(
        {window.over, {b_, plan::Halo(window, seen, seen_inner, seers, seers_inner, parts), by, own}});
    for (size_t o = 0; o < operands_.size(); ++o) {
      const int64_t dim = dim_of(op_.rule.operands[o], window.over);
      if (dim >= 0) operands_[o] = halos_.back().exchange.see(operands_[o], dim, window.outside);
    }
    if (op_.rule.factors[f].position == Position::kSeenIndex) shift_seen_index(f);
    if (window.padding == 0) return;  // the argument may be left out
    auto& padding = arg<Dims>(window.padding_arg);
    if (padding.size() == 1) padding.assign(static_cast<size_t>(window.dims), padding[0]);
    padding[window.dim] = 0;
  }

  void shift_seen_index(size_t f) {
    const auto& factor = op_.rule.factors[f];
    const auto& over = op_.rule.operands[first_operand_with(factor.window.over)];
    int64_t inner = 1;
    for (size_t d = static_cast<size_t>(dim_of(over, factor.window.over)) + 1; d < over.size(); ++d) {
      for (const auto one : over[d]) inner *= parts_.size(static_cast<size_t>(one));
    }
    if (factor.position_at != ir::kNone) {
      auto& index = operands_[factor.position_at];
      index = halos_.back().exchange.index_in_seen(index, inner);
    } else {
      found_ = {factor.position_to, inner, factor.window.dilation};
    }
  }

  void give_back(std::vector<ValueId>* results) const {
    if (found_.result != ir::kNone) {
      auto& index = (*results)[found_.result];
      index = halos_.back().exchange.index_in_whole(index, found_.inner, found_.dilation);
    }
    for (auto halo = halos_.rbegin(); halo != halos_.rend(); ++halo) {
      for (size_t r = 0; r < results->size(); ++r) {
        const int64_t dim = dim_of(op_.rule.results[r], halo->over);
        if (dim >= 0) (*results)[r] = halo->exchange.give_back((*results)[r], dim);
      }
    }
  }

  // --- Positions ----------------------------------------------------------------------------------

  struct Hidden {
    ValueId mask;
    int64_t dim;  // of the result, where the mask's dims begin
  };

  void position(size_t f) {
    const auto& factor = op_.rule.factors[f];
    const int32_t at = factor.position_at, to = factor.position_to;
    switch (factor.position) {
      case Position::kNone:
      case Position::kOnlyPosition: return;
      case Position::kLookup: hidden_.push_back({shift(at, parts_.run_of(f), ir::kNone), to}); return;
      case Position::kWrappedLookup: {
        operands_[at] = b_.pointwise("aten.remainder.Scalar", {operands_[at]}, {factor.size});
        hidden_.push_back({shift(at, parts_.run_of(f), ir::kNone), to});
        return;
      }
      case Position::kScatter: {
        const Part part = parts_.run_of(f);
        const ValueId mask = shift(at, part, ir::kNone);
        operands_[0] = hide(operands_[0], {mask, 0});
        auto& skipped = arg<int64_t>(to);
        const bool here = skipped >= part.start && skipped < part.start + part.length;
        skipped = here ? skipped - part.start : -1;
        return;
      }
      case Position::kTarget: {
        auto& ignored = arg<int64_t>(to);
        const ValueId own = operands_[at];
        const ValueId skipped = b_.pointwise("aten.eq.Scalar", {own}, {ignored}, ir::DType::kBool);
        ignored = -100;
        shift(at, parts_.run_of(f), skipped, ignored);
        return;
      }
      case Position::kDiagonal: arg<int64_t>(at) += parts_.run_of(f).start; return;
      case Position::kDiagonalBack: arg<int64_t>(at) -= parts_.run_of(f).start; return;
      case Position::kQuery: {
        // Query i of this part sees the keys up to start + i.
        const Part part = parts_.run_of(f);
        const auto query = static_cast<size_t>(first_operand_with(f));
        const Dims mask{part.length, keys()};
        const auto dtype = b_.type(operands_[query]).dtype;
        const ValueId hidden = b_.full(dtype, mask, -std::numeric_limits<double>::infinity());
        arg<bool>(at) = false;
        if (args_.size() <= static_cast<size_t>(to)) args_.resize(static_cast<size_t>(to) + 1);
        args_[to] = ir::OperandRef{static_cast<int32_t>(operands_.size())};
        operands_.push_back(b_.add("aten.triu", {hidden}, {part.start + 1}, b_.type(hidden)));
        return;
      }
      case Position::kSampled: sampled(); return;
      case Position::kSeenIndex: return;  // known when it is known what is seen
      case Position::kGroups: MOAI_ASSERT(false, "groups are a grouped product's"); return;
    }
  }

  // An index that no device has must raise what the whole op would: each device does the op once more, with
  // the indices as they came, on a table of zeros as long as the whole one. It is as thin as can be, and
  // takes no memory. Its result is nobody's.
  void check_indices(size_t f) {
    const auto& factor = op_.rule.factors[f];
    const bool is_target = factor.position == Position::kTarget;
    const bool looks_up = factor.position == Position::kLookup || factor.position == Position::kWrappedLookup;
    if (!(is_target || looks_up) || !ops::traits(op_.node.op).can_raise) return;
    const ValueId index = b_.contiguous(operands_[factor.position_at]);
    const auto& dims = op_.rule.operands[0];
    const auto dim = std::find(dims.begin(), dims.end(), std::vector<int32_t>{static_cast<int32_t>(f)});
    MOAI_ASSERT(dim != dims.end(), "what is looked up is no dim of the first operand");
    Dims table = is_target ? b_.type(operands_[0]).sizes : Dims(dims.size(), 1);
    table[dim - dims.begin()] = factor.size;
    ir::Node node = op_.node;
    node.operands = {b_.zeros_over(b_.type(operands_[0]).dtype, table), index};
    node.results.clear();
    std::vector<Type> types;
    const auto dtype = [&](size_t r) { return op_.whole.type(op_.node.results[r]).dtype; };
    if (is_target) {  // (input, target, weight, reduction, which to ignore) -> (loss, its weight)
      node.args[0] = ir::OperandRef{0};
      node.args[1] = ir::OperandRef{1};
      node.args[2] = ir::NoneArg{};
      node.args[3] = int64_t{0};
      types = {Type::contiguous(dtype(0), b_.type(index).sizes), Type::contiguous(dtype(1), {})};
    } else {
      Dims found(op_.whole.type(op_.node.results[0]).sizes.size(), 1);
      const Dims& sizes = b_.type(index).sizes;
      std::copy(sizes.begin(), sizes.end(), found.begin() + factor.position_to);
      types = {Type::contiguous(dtype(0), std::move(found))};
    }
    b_.graph().add_node(std::move(node), std::move(types));
  }

  // Its groups end where the sorted ids of its own rows say.
  ValueId grouped_rows(const Part& groups) {
    ir::Node node = op_.node;
    node.op = ir::Symbol::intern("aten._grouped_mm");
    operands_[2] = group_ends(b_, operands_[2], groups);
    args_ = {ir::OperandRef{0}, ir::OperandRef{1}, ir::OperandRef{2}, ir::NoneArg{}, ir::NoneArg{}};
    return grouped(std::move(node));
  }

  ValueId grouped(ir::Node node) {
    std::optional<Part> groups;
    for (size_t f = 0; f < op_.rule.factors.size(); ++f) {
      if (parts_.is_split(f) && op_.rule.factors[f].position == Position::kGroups) groups = parts_.run_of(f);
    }
    node.args = args_;
    return grouped_product(b_, std::move(node), operands_, result_type(0), groups);
  }

  // Makes the indices of operand `at` count within the part. Returns where they are outside of it (or
  // `also` is), where they become `instead`.
  ValueId shift(int32_t at, const Part& part, ValueId also, int64_t instead = 0) {
    const ValueId index = operands_[at];
    const auto boolean = ir::DType::kBool;
    const ValueId below = b_.pointwise("aten.lt.Scalar", {index}, {part.start}, boolean);
    const ValueId above = b_.pointwise("aten.ge.Scalar", {index}, {part.start + part.length}, boolean);
    ValueId outside = b_.pointwise("aten.bitwise_or.Tensor", {below, above});
    if (also != ir::kNone) outside = b_.pointwise("aten.bitwise_or.Tensor", {outside, also});
    const ValueId local = b_.pointwise("aten.sub.Scalar", {index}, {part.start, int64_t{1}});
    operands_[at] = b_.pointwise("aten.masked_fill.Scalar", {local, outside}, {instead});
    return outside;
  }

  ValueId hide(ValueId x, const Hidden& hidden) {
    Dims sizes = b_.type(hidden.mask).sizes;
    const size_t behind = b_.type(x).sizes.size() - sizes.size() - static_cast<size_t>(hidden.dim);
    sizes.insert(sizes.end(), behind, 1);
    return b_.pointwise("aten.masked_fill.Scalar", {x, b_.reshape(hidden.mask, sizes)}, {int64_t{0}});
  }

  int32_t first_operand_with(size_t f) const {
    for (size_t o = 0; o < op_.rule.operands.size(); ++o) {
      for (const auto& dim : op_.rule.operands[o]) {
        if (std::find(dim.begin(), dim.end(), static_cast<int32_t>(f)) != dim.end())
          return static_cast<int32_t>(o);
      }
    }
    MOAI_ASSERT(false, "no operand has the factor");
    return ir::kNone;
  }

  // The length of attention's keys: the third dim of its second operand that has `t`.
  int64_t keys() const {
    for (size_t o = 0; o < op_.rule.operands.size(); ++o) {
      for (const auto& dim : op_.rule.operands[o]) {
        if (dim.size() == 1 && op_.rule.factors[dim[0]].name == "t") return op_.rule.factors[dim[0]].size;
      }
    }
    return 1;
  }

  // A sampler draws by global index: it is told, for each atom of its result, outermost first, the whole
  // size, where its part starts and how long that is.
  void sampled() {
    if (is_placed_) return;
    is_placed_ = true;
    Dims places;
    for (const auto& [whole, part] : place_of_result(op_))
      places.insert(places.end(), {whole, part.start, part.length});
    args_.emplace_back(std::move(places));
  }

  // A function of the position alone: all of it, and a part of that.
  std::vector<ValueId> cut_whole() {
    ir::Node node = op_.node;
    node.results.clear();
    node.operands = operands_;
    const Type& type = op_.whole.type(op_.node.results[0]);
    const std::vector<AtomPart> place = place_of_result(op_);
    Dims open;
    for (const auto& atom : place) open.push_back(atom.whole);
    ValueId x = b_.reshape(b_.add_node(std::move(node), {type}).results[0], open);
    for (size_t i = 0; i < place.size(); ++i)
      x = b_.slice(x, static_cast<int64_t>(i), place[i].part.start, place[i].part.length);
    return {b_.reshape(x, local_sizes(0))};
  }

  LocalBuilder& b_;
  const LocalOp& op_;
  const FactorParts parts_;
  std::vector<ValueId> operands_;
  std::vector<ir::Arg> args_;
  std::vector<Hidden> hidden_;
  std::vector<SeenFactor> halos_;
  FoundIndex found_;
  bool is_placed_ = false;
};

}  // namespace

ValueId write_target_weight(LocalBuilder& builder, const LocalOp& op, ValueId target, ValueId weights) {
  return WriteLocal(builder, op, {}).target_weight(target, weights);
}

std::vector<ValueId> write_local_op(LocalBuilder& builder, const LocalOp& op, std::vector<ValueId> operands) {
  return WriteLocal(builder, op, std::move(operands)).run();
}

}  // namespace moai::compile
