#pragma once

#include <vector>

#include "compile/local/local_builder.h"
#include "plan/halo.h"

namespace moai::compile {

// Writes, on one device, how parts along one dim come by what their windows see: see Note [Halos] in
// plan/halo.h. All devices of a group write the same collectives.
class HaloExchange {
 public:
  // `axes` divide the factor, ascending; `own`: which part is the device's.
  HaloExchange(LocalBuilder& builder, plan::Halo halo, std::vector<int64_t> axes, int64_t own);

  // Which places the device sees.
  const plan::Part& seen() const { return halo_.seen(own_); }

  // From the own places along `dim` to those that are seen, of which the ones that there are not are
  // `outside`.
  ir::ValueId see(ir::ValueId x, int64_t dim, double outside) const;
  // From a share of what is seen to the sum of all shares of the own places.
  ir::ValueId give_back(ir::ValueId x, int64_t dim) const;
  // Indices into what is seen, `inner` for each of its places, from those into the whole; and back, where an
  // op that finds nothing larger than what lies outside has taken the first place of its window: that is to
  // be the first one within, places of a window being `dilation` apart.
  ir::ValueId index_in_seen(ir::ValueId index, int64_t inner) const;
  ir::ValueId index_in_whole(ir::ValueId index, int64_t inner, int64_t dilation) const;

 private:
  // A value that has some places: `first` is its first one's.
  struct Piece {
    ir::ValueId x;
    int64_t first;
    plan::Part places;
  };

  std::vector<Piece> seen_pieces(ir::ValueId x, int64_t dim) const;
  std::vector<Piece> shares(ir::ValueId x, int64_t dim) const;
  ir::ValueId gather(ir::ValueId x, int64_t dim, int64_t (plan::Halo::*places)(int64_t) const) const;
  ir::ValueId slice(const Piece& piece, const plan::Part& places, int64_t dim) const;
  ir::ValueId full(ir::ValueId like, int64_t dim, int64_t places, double value) const;
  ir::ValueId joined(const std::vector<ir::ValueId>& row, ir::ValueId like, int64_t dim) const;

  LocalBuilder& b_;
  plan::Halo halo_;
  std::vector<int64_t> axes_;
  int64_t own_;
};

}  // namespace moai::compile
