#include "compile/local/halo_exchange.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <utility>

namespace moai::compile {

using ir::ValueId;
using plan::Part;

HaloExchange::HaloExchange(LocalBuilder& builder, plan::Halo halo, std::vector<int64_t> axes, int64_t own)
    : b_(builder), halo_(std::move(halo)), axes_(std::move(axes)), own_(own) {}

ValueId HaloExchange::see(ValueId x, int64_t dim, double outside) const {
  return in_memory_order(b_, x, dim, [&](ValueId in, int64_t at) {
    const Part &own = halo_.own(own_), &seen = halo_.seen(own_), &real = halo_.real(own_);
    const auto pieces = seen_pieces(in, at);
    if (seen.start == own.start && seen.length == own.length) return in;
    const int64_t before = std::clamp<int64_t>(-seen.start, 0, seen.length);
    std::vector<ValueId> row;
    if (before > 0) row.push_back(full(in, at, before, outside));
    for (const auto& piece : pieces) {
      const Part part = common(real, piece.places);
      if (part.length > 0) row.push_back(slice(piece, part, at));
    }
    const int64_t after = seen.length - before - real.length;
    if (after > 0) row.push_back(full(in, at, after, outside));
    return joined(row, in, at);
  });
}

ValueId HaloExchange::give_back(ValueId x, int64_t dim) const {
  return in_memory_order(b_, x, dim, [&](ValueId in, int64_t at) {
    const Part& own = halo_.own(own_);
    const auto all = shares(in, at);
    std::set<int64_t> edges{own.start, own.end()};
    for (const auto& share : all) edges.insert({share.places.start, share.places.end()});
    std::vector<ValueId> row;
    for (auto edge = edges.begin(); std::next(edge) != edges.end(); ++edge) {
      const Part run{*edge, *std::next(edge) - *edge};
      ValueId sum = ir::kNone;
      for (const auto& share : all) {
        if (common(run, share.places).length < run.length) continue;
        const ValueId part = slice(share, run, at);
        sum = sum == ir::kNone ? part : b_.pointwise("aten.add.Tensor", {sum, part}, {int64_t{1}});
      }
      row.push_back(sum == ir::kNone ? full(in, at, run.length, 0) : sum);
    }
    return joined(row, in, at);
  });
}

ValueId HaloExchange::index_in_seen(ValueId index, int64_t inner) const {
  return b_.pointwise("aten.sub.Scalar", {index}, {seen().start * inner, int64_t{1}});
}

ValueId HaloExchange::index_in_whole(ValueId index, int64_t inner, int64_t dilation) const {
  index = b_.pointwise("aten.add.Scalar", {index}, {seen().start * inner, int64_t{1}});
  if (seen().start >= 0) return index;
  const ValueId outside = b_.pointwise("aten.lt.Scalar", {index}, {int64_t{0}}, ir::DType::kBool);
  const ValueId within = b_.pointwise("aten.remainder.Scalar", {index}, {dilation * inner});
  return b_.pointwise("aten.where.self", {outside, within, index}, {}, b_.type(index).dtype);
}

// What there is of the places near parts' edges, and all own ones, in order.
std::vector<HaloExchange::Piece> HaloExchange::seen_pieces(ValueId x, int64_t dim) const {
  const Piece own{x, halo_.own(own_).start, halo_.own(own_)};
  ValueId others = ir::kNone;
  if (halo_.all_given() > 0) {
    std::vector<ValueId> given;
    for (const Part& part : {halo_.first(own_), halo_.last(own_)}) {
      if (part.length > 0) given.push_back(slice(own, part, dim));
    }
    others = gather(joined(given, x, dim), dim, &plan::Halo::given);
  }
  std::vector<Piece> pieces;
  int64_t at = 0;
  for (int64_t i = 0; i < halo_.parts(); ++i) {
    if (i == own_) pieces.push_back(own);
    for (const Part& part : {halo_.first(i), halo_.last(i)}) {
      if (i != own_ && part.length > 0) pieces.push_back({others, part.start - at, part});
      at += part.length;
    }
  }
  return pieces;
}

// What each part has made of the own places.
std::vector<HaloExchange::Piece> HaloExchange::shares(ValueId x, int64_t dim) const {
  const Piece made{x, halo_.seen(own_).start, halo_.real(own_)};
  ValueId others = ir::kNone;
  if (halo_.all_returned() > 0) {
    std::vector<ValueId> returned;
    for (int64_t other = 0; other < halo_.parts(); ++other) {
      const Part part = halo_.foreign(own_, other);
      if (other != own_ && part.length > 0) returned.push_back(slice(made, part, dim));
    }
    others = gather(joined(returned, x, dim), dim, &plan::Halo::returned);
  }
  std::vector<Piece> pieces;
  int64_t at = 0;
  for (int64_t i = 0; i < halo_.parts(); ++i) {
    for (int64_t other = 0; other < halo_.parts(); ++other) {
      const Part part = halo_.foreign(i, other);
      if (other == own_ && part.length > 0)
        pieces.push_back(i == own_ ? Piece{x, made.first, part} : Piece{others, part.start - at, part});
      if (other != i) at += part.length;
    }
  }
  return pieces;
}

// Of all parts, side by side, what each has for others.
ValueId HaloExchange::gather(ValueId x, int64_t dim, int64_t (plan::Halo::*places)(int64_t) const) const {
  Collective call;
  call.kind = Collective::Kind::kAllGather;
  call.axes = axes_;
  call.dim = dim;
  for (int64_t i = 0; i < halo_.parts(); ++i) call.sizes.push_back((halo_.*places)(i));
  return b_.collective(x, call, static_cast<size_t>(own_));
}

ValueId HaloExchange::slice(const Piece& piece, const Part& places, int64_t dim) const {
  return b_.slice(piece.x, dim, places.start - piece.first, places.length);
}

ValueId HaloExchange::full(ValueId like, int64_t dim, int64_t places, double value) const {
  ir::Dims sizes = b_.type(like).sizes;
  sizes[dim] = places;
  return b_.full(b_.type(like).dtype, sizes, value);
}

ValueId HaloExchange::joined(const std::vector<ValueId>& row, ValueId like, int64_t dim) const {
  if (row.empty()) return b_.slice(like, dim, 0, 0);
  return row.size() == 1 ? row[0] : b_.concatenate(row, dim);
}

}  // namespace moai::compile
