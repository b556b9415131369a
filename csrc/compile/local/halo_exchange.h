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

  // How many places the device sees.
  int64_t seen() const { return halo_.seen(own_).length; }

  // From the own places along `dim` to those that are seen, of which the ones outside of the whole are zero.
  ir::ValueId see(ir::ValueId x, int64_t dim) const;
  // From a share of what is seen to the sum of all shares of the own places.
  ir::ValueId give_back(ir::ValueId x, int64_t dim) const;

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
  ir::ValueId zeros(ir::ValueId like, int64_t dim, int64_t places) const;
  ir::ValueId joined(const std::vector<ir::ValueId>& row, ir::ValueId like, int64_t dim) const;

  LocalBuilder& b_;
  plan::Halo halo_;
  std::vector<int64_t> axes_;
  int64_t own_;
};

}  // namespace moai::compile
