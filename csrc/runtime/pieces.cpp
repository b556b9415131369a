#include "runtime/pieces.h"

#include <algorithm>
#include <numeric>

namespace moai::runtime {

namespace {

// Positions [start, end) of a dim.
struct Range {
  int64_t start;
  int64_t end;
  int64_t size() const { return std::max<int64_t>(end - start, 0); }
};

// What a member has of a dim.
Range range_of(const ir::Dims& sizes, const Layout& layout, int rank, size_t dim) {
  if (dim >= sizes.size()) return {0, 1};
  if (layout.dim != static_cast<int>(dim)) return {0, sizes[dim]};
  const auto part = layout.parts.begin() + rank;
  const int64_t start = std::accumulate(layout.parts.begin(), part, int64_t{0});
  return {start, start + *part};
}

int64_t product(const ir::Dims& sizes, size_t first, size_t last) {
  int64_t count = 1;
  for (size_t d = first; d < std::min(last, sizes.size()); ++d) count *= sizes[d];
  return count;
}

// Rows that lie one after the other on both sides become one.
Box merged(Box box) {
  for (int times = 0; times < 2; ++times) {
    const bool adjoin = box.source.strides[1] == box.length && box.target.strides[1] == box.length;
    if (!adjoin && box.rows[1] != 1) break;
    box.length *= box.rows[1];
    box.rows[1] = box.rows[0];
    box.rows[0] = 1;
    for (Box::Side* side : {&box.source, &box.target}) side->strides[1] = side->strides[0];
  }
  return box;
}

// What `source` has by `from` and `target` has by `to`. Seen as [outer, upper, between, lower, inner] where
// at most upper and lower are cut.
Box box_of(const Collective& collective, int source, int target) {
  const ir::Dims& sizes = collective.sizes;
  const Layout& from = collective.from;
  const Layout& to = collective.to;
  // A dim that is not cut counts as one past the last, of size one.
  const size_t none = sizes.size();
  const size_t a = from.is_cut() ? static_cast<size_t>(from.dim) : none;
  const size_t b = to.is_cut() ? static_cast<size_t>(to.dim) : none;
  const size_t upper = std::min(a, b);
  const size_t lower = a == b ? none : std::max(a, b);
  const int64_t outer = product(sizes, 0, upper);
  const int64_t between = product(sizes, upper + 1, lower);
  const int64_t inner = product(sizes, lower + 1, none);

  const Range of_upper[] = {range_of(sizes, from, source, upper), range_of(sizes, to, target, upper)};
  const Range of_lower[] = {range_of(sizes, from, source, lower), range_of(sizes, to, target, lower)};
  const auto common = [](const Range* ranges) {
    return Range{std::max(ranges[0].start, ranges[1].start), std::min(ranges[0].end, ranges[1].end)};
  };
  const Range rows = common(of_upper);
  const Range columns = common(of_lower);

  Box box;
  box.rows[0] = outer;
  box.rows[1] = rows.size() * between;
  box.length = columns.size() * inner;
  Box::Side* const sides[] = {&box.source, &box.target};
  for (int s = 0; s < 2; ++s) {
    const int64_t row = of_lower[s].size() * inner;
    sides[s]->strides[1] = row;
    sides[s]->strides[0] = of_upper[s].size() * between * row;
    sides[s]->offset =
        (rows.start - of_upper[s].start) * between * row + (columns.start - of_lower[s].start) * inner;
  }
  return merged(box);
}

}  // namespace

std::vector<Piece> pieces_of(const Collective& collective, int members) {
  using Kind = Collective::Kind;
  std::vector<Piece> pieces;
  const auto add = [&](int source, int target) {
    const Box box = box_of(collective, std::max(source, 0), std::max(target, 0));
    if (box.elements() > 0) pieces.push_back({box, source, target});
  };
  switch (collective.kind) {
    case Kind::kAllReduce: add(kAll, kAll); break;
    case Kind::kBroadcast: add(collective.peer, kAll); break;
    case Kind::kSend:
    case Kind::kReceive: add(0, 1); break;
    case Kind::kAllGather:
      for (int rank = 0; rank < members; ++rank) add(rank, kAll);
      break;
    case Kind::kReduceScatter:
      for (int rank = 0; rank < members; ++rank) add(kAll, rank);
      break;
    case Kind::kAllToAll:
      for (int source = 0; source < members; ++source) {
        for (int target = 0; target < members; ++target) add(source, target);
      }
      break;
  }
  return pieces;
}

}  // namespace moai::runtime
