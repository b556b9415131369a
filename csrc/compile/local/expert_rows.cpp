#include "compile/local/expert_rows.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>

#include "compile/local/factor_parts.h"
#include "compile/local/row_order.h"
#include "ir/error.h"
#include "ops/expert_rows.h"

namespace moai::compile {

namespace {

using ir::Dims;
using ir::ValueId;

ir::Arg operand(int32_t number) { return ir::OperandRef{number}; }

// Who sends rows to whom, seen from one device.
struct RowTrade {
  std::optional<int64_t> axis;  // along which; nothing where the device has all experts
  size_t own = 0;               // its position there
  std::vector<Part> experts;    // by member: whose rows it gets
  std::vector<int64_t> slots;   // by member: that it has for each expert's rows, by origin

  int64_t count() const { return experts.back().end(); }  // of experts
};

RowTrade row_trade(const LocalOp& op) {
  const FactorParts parts(op);
  size_t e = 0;
  while (op.rule.factors[e].trades < 0) ++e;
  const auto u = static_cast<size_t>(op.rule.factors[e].trades);
  const auto each = std::get<int64_t>(op.node.args.back());
  const int64_t experts = parts.outermost(e), inner = parts.inner_size(e);
  std::vector<int64_t> by_origin = parts.axes(u, 0);
  const auto slots = [&](const Place& member) {
    return member.part(parts.outermost(u), by_origin).length * parts.inner_size(u) * each;
  };
  RowTrade trade;
  if (!parts.is_split(e)) {
    trade.experts = {{0, experts * inner}};
    trade.slots = {slots(op.place)};
    return trade;
  }
  trade.axis = parts.axes(e)[0];
  trade.own = static_cast<size_t>(op.place.coordinates[*trade.axis]);
  by_origin.insert(std::upper_bound(by_origin.begin(), by_origin.end(), *trade.axis), *trade.axis);
  Place member = op.place;
  for (int32_t m = 0; m < op.place.mesh[*trade.axis]; ++m) {
    member.coordinates[*trade.axis] = m;
    const Part own = member.part(experts, {*trade.axis});
    trade.experts.push_back({own.start * inner, own.length * inner});
    trade.slots.push_back(slots(member));
  }
  return trade;
}

class MoveRows {
 public:
  MoveRows(LocalBuilder& b, const RowTrade& trade) : b_(b), trade_(trade) {}

  // Rows leave in the order of their experts, each member's by slots of its own; see who goes where.
  std::vector<ValueId> assign(ValueId ids) {
    const int64_t rows = b_.type(ids).sizes[0];
    const ValueId starts = group_begins(b_, ids, trade_.count() + 1);
    std::vector<ValueId> shifts, ends, shifts_of_experts, excess;
    for (const auto& experts : trade_.experts) {
      const ValueId begin = b_.slice(starts, 0, experts.start, 1),
                    end = b_.slice(starts, 0, experts.end(), 1);
      const int64_t first = experts.start * own_slots(), slots = experts.length * own_slots();
      const ValueId shift = b_.pointwise("aten.sub.Scalar", {begin}, {first, int64_t{1}});
      shifts.push_back(b_.expand(shift, {slots}));
      ends.push_back(b_.expand(end, {slots}));
      shifts_of_experts.push_back(b_.expand(shift, {experts.length}));
      if (slots >= rows) continue;
      const ValueId taken = minus(end, begin);
      excess.push_back(b_.pointwise("aten.sub.Scalar", {taken}, {slots, int64_t{1}}));
    }
    if (!excess.empty()) b_.add_without_result("moai.check_slots", b_.concatenate(excess, 0), {});

    const ValueId row = plus(b_.count_up(trade_.count() * own_slots()), b_.concatenate(shifts, 0));
    const ValueId is_free =
        b_.pointwise("aten.ge.Tensor", {row, b_.concatenate(ends, 0)}, {}, ir::DType::kBool);
    const ValueId send = b_.pointwise("aten.clamp", {row}, {int64_t{0}, rows - 1});
    ValueId sent = b_.index_select(ids, 0, send);
    sent = b_.pointwise("aten.masked_fill.Scalar", {sent, is_free}, {trade_.count()});
    const ValueId shift_of_row = b_.index_select(b_.concatenate(shifts_of_experts, 0), 0, ids);
    const ValueId left = minus(b_.count_up(rows), shift_of_row);
    if (!trade_.axis) return {sent, b_.count_up(rows_in_slots()), send, left};

    const auto [arrived, came] = sorted(b_, forth(sent));
    return {arrived, came, send, left};
  }

  ValueId to_experts(ValueId x, ValueId send, ValueId came) {
    const ValueId sent = b_.index_select(x, 0, send);
    return trade_.axis ? b_.index_select(forth(sent), 0, came) : sent;
  }

  ValueId to_tokens(ValueId y, ValueId left, ValueId came) {
    if (trade_.axis) y = back(b_.index_select(y, 0, inverse_order(b_, came)));
    return b_.index_select(y, 0, left);
  }

 private:
  int64_t own_slots() const { return trade_.slots[trade_.own]; }

  int64_t rows_in_slots() const {
    const auto& slots = trade_.slots;
    return trade_.experts[trade_.own].length * std::accumulate(slots.begin(), slots.end(), int64_t{0});
  }

  ValueId plus(ValueId a, ValueId c) { return b_.pointwise("aten.add.Tensor", {a, c}, {int64_t{1}}); }
  ValueId minus(ValueId a, ValueId c) { return b_.pointwise("aten.sub.Tensor", {a, c}, {int64_t{1}}); }

  std::vector<int64_t> experts_of_members() const {
    std::vector<int64_t> lengths;
    for (const auto& experts : trade_.experts) lengths.push_back(experts.length);
    return lengths;
  }

  // What a member has for all experts goes to where they are: [experts, own slots, ..] cut by experts.
  ValueId forth(ValueId x) {
    return through(x, trade_.count(), own_slots(), 0, experts_of_members(), 1, trade_.slots);
  }
  ValueId back(ValueId x) {
    const auto& slots = trade_.slots;
    const int64_t all = std::accumulate(slots.begin(), slots.end(), int64_t{0});
    return through(x, trade_.experts[trade_.own].length, all, 1, slots, 0, experts_of_members());
  }

  ValueId through(ValueId x, int64_t experts, int64_t slots, int64_t cut, std::vector<int64_t> cut_sizes,
                  int64_t joined, std::vector<int64_t> joined_sizes) {
    const Dims& sizes = b_.type(x).sizes;
    Dims open{experts, slots};
    open.insert(open.end(), sizes.begin() + 1, sizes.end());
    Collective call;
    call.kind = Collective::Kind::kAllToAll;
    call.axes = {*trade_.axis};
    call.dim = cut;
    call.sizes = std::move(cut_sizes);
    call.joined_dim = joined;
    call.joined_sizes = std::move(joined_sizes);
    const ValueId out = b_.collective(b_.reshape(x, open), call, trade_.own);
    const Dims& made = b_.type(out).sizes;
    Dims closed{made[0] * made[1]};
    closed.insert(closed.end(), made.begin() + 2, made.end());
    return b_.reshape(out, closed);
  }

  LocalBuilder& b_;
  const RowTrade& trade_;
};

// Looks up experts by rows, or adds rows to them, where a part of the experts is.
ValueId by_expert(LocalBuilder& b, const ir::Node& node, const std::vector<ValueId>& operands,
                  const Part& experts) {
  const ValueId ids = operands[1];
  ValueId at = b.pointwise("aten.sub.Scalar", {ids}, {experts.start, int64_t{1}});
  at = b.pointwise("aten.clamp", {at}, {int64_t{0}, experts.length - 1});
  if (node.op == ops::expert_rows().take) return b.index_select(operands[0], 0, at);
  MOAI_ASSERT(node.op == ops::expert_rows().add, "no op by experts: ", node.op.str());
  // What lies in free slots may be anything.
  Dims mask(b.type(operands[2]).sizes.size(), 1);
  mask[0] = b.type(ids).sizes[0];
  const ValueId is_free = b.pointwise("aten.ge.Scalar", {ids}, {experts.end()}, ir::DType::kBool);
  const ValueId rows =
      b.pointwise("aten.masked_fill.Scalar", {operands[2], b.reshape(is_free, mask)}, {int64_t{0}});
  ir::Node add;
  add.op = ir::Symbol::intern(node.tied.empty() ? "aten.index_add" : "aten.index_add_");
  add.operands = {operands[0], at, rows};
  add.args = {operand(0), int64_t{0}, operand(1), operand(2), int64_t{1}};
  add.tied = node.tied;
  return b.add_node(std::move(add), {b.type(operands[0])}).results[0];
}

}  // namespace

Part own_experts(const LocalOp& op) {
  const auto& factors = op.rule.factors;
  const auto e = std::find_if(factors.begin(), factors.end(),
                              [](const ops::Factor& factor) { return factor.name == "e"; });
  MOAI_ASSERT(e != factors.end(), op.node.op.str(), " has no experts");
  return FactorParts(op).run_of(static_cast<size_t>(e - factors.begin()));
}

std::vector<ValueId> expert_rows(LocalBuilder& b, const LocalOp& op, const std::vector<ValueId>& operands) {
  const ops::ExpertRows& all = ops::expert_rows();
  if (!ops::moves_rows(op.node.op)) return {by_expert(b, op.node, operands, own_experts(op))};
  const RowTrade trade = row_trade(op);
  MoveRows move(b, trade);
  if (op.node.op == all.assign) return move.assign(operands[0]);
  if (op.node.op == all.to_experts) return {move.to_experts(operands[0], operands[1], operands[2])};
  MOAI_ASSERT(op.node.op == all.to_tokens, "no op of rows by expert: ", op.node.op.str());
  return {move.to_tokens(operands[0], operands[1], operands[2])};
}

}  // namespace moai::compile
