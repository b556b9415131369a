#include "runtime/contiguous_calls.h"

#include <algorithm>

namespace moai::runtime {

namespace {

using Kind = ContiguousCall::Kind;

bool is_contiguous(const Box& box, const Box::Side& side) {
  return (box.rows[1] == 1 || side.strides[1] == box.length) &&
         (box.rows[0] == 1 || side.strides[0] == box.rows[1] * box.length);
}

Box::Side packed(const Box& box) { return {0, {box.rows[1] * box.length, box.length}}; }

class Planning {
 public:
  Planning(const Collective& collective, int rank, int members)
      : collective_(collective), rank_(rank), members_(members), pieces_(pieces_of(collective, members)) {}

  ContiguousCalls run() {
    switch (collective_.kind) {
      case Collective::Kind::kAllReduce: all_reduce(); break;
      case Collective::Kind::kBroadcast:
        for (const Piece& piece : pieces_)
          call(Kind::kBroadcast, in(), out(), piece.box.elements(), collective_.peer);
        break;
      case Collective::Kind::kSend:
        for (const Piece& piece : pieces_)
          call(Kind::kSend, in(), {}, piece.box.elements(), collective_.peer);
        break;
      case Collective::Kind::kReceive:
        for (const Piece& piece : pieces_)
          call(Kind::kReceive, {}, out(), piece.box.elements(), collective_.peer);
        break;
      case Collective::Kind::kAllGather: all_gather(); break;
      case Collective::Kind::kReduceScatter: reduce_scatter(); break;
      case Collective::Kind::kAllToAll: all_to_all(); break;
    }
    return std::move(plan_);
  }

 private:
  static Place in(int64_t offset = 0) { return {Place::Of::kIn, offset}; }
  static Place out(int64_t offset = 0) { return {Place::Of::kOut, offset}; }
  Place staging(int64_t elements) {
    const Place place{Place::Of::kStaging, plan_.staging_elements};
    plan_.staging_elements += elements;
    return place;
  }

  void call(Kind kind, Place from, Place to, int64_t count, int peer = 0) {
    plan_.calls.push_back({kind, from, to, count, peer});
  }

  // Where a piece that this member gives lies in one piece.
  Place gathered(const Box& box) {
    if (is_contiguous(box, box.source)) return in(box.source.offset);
    const Place place = staging(box.elements());
    pack(box, place);
    return place;
  }
  void pack(Box box, Place place) {
    box.target = packed(box);
    plan_.before.push_back({in(), place, box});
  }
  // Where a piece that this member gets may arrive in one piece.
  Place scattered(const Box& box) {
    if (is_contiguous(box, box.target)) return out(box.target.offset);
    const Place place = staging(box.elements());
    unpack(box, place);
    return place;
  }
  void unpack(Box box, Place place) {
    box.source = packed(box);
    plan_.after.push_back({place, out(), box});
  }

  // Whether each member has a piece of the same size, and they lie one after the other on one side.
  bool are_even() const {
    return static_cast<int>(pieces_.size()) == members_ &&
           std::all_of(pieces_.begin(), pieces_.end(),
                       [&](const Piece& p) { return p.box.elements() == pieces_[0].box.elements(); });
  }
  bool adjoin(Box::Side Box::*side) const {
    int64_t offset = 0;
    for (const Piece& piece : pieces_) {
      if (!is_contiguous(piece.box, piece.box.*side) || (piece.box.*side).offset != offset) return false;
      offset += piece.box.elements();
    }
    return true;
  }

  // Of nothing it is a barrier, which takes something to exchange.
  void all_reduce() {
    for (const Piece& piece : pieces_) call(Kind::kAllReduce, in(), out(), piece.box.elements());
    if (!pieces_.empty()) return;
    const Place place = staging(1);
    call(Kind::kAllReduce, place, place, 1);
  }

  void all_gather() {
    if (are_even()) {
      const int64_t count = pieces_[0].box.elements();
      const bool in_place = adjoin(&Box::target);
      const Place to = in_place ? out() : staging(count * members_);
      call(Kind::kAllGather, in(), to, count);
      for (const Piece& piece : pieces_) {
        if (!in_place) unpack(piece.box, {to.of, to.offset + piece.source * count});
      }
      return;
    }
    for (const Piece& piece : pieces_) {
      if (piece.source == rank_) {
        plan_.before.push_back({in(), out(), piece.box});
        for (int peer = 0; peer < members_; ++peer) {
          if (peer != rank_) call(Kind::kSend, in(), {}, piece.box.elements(), peer);
        }
      } else {
        call(Kind::kReceive, {}, scattered(piece.box), piece.box.elements(), piece.source);
      }
    }
  }

  void reduce_scatter() {
    if (are_even()) {
      const int64_t count = pieces_[0].box.elements();
      const bool in_place = adjoin(&Box::source);
      const Place from = in_place ? in() : staging(count * members_);
      for (const Piece& piece : pieces_) {
        if (!in_place) pack(piece.box, {from.of, from.offset + piece.target * count});
      }
      call(Kind::kReduceScatter, from, out(), count);
      return;
    }
    for (const Piece& piece : pieces_)
      call(Kind::kReduce, gathered(piece.box), out(), piece.box.elements(), piece.target);
  }

  void all_to_all() {
    for (const Piece& piece : pieces_) {
      if (piece.source == rank_ && piece.target == rank_) {
        plan_.before.push_back({in(), out(), piece.box});
      } else if (piece.source == rank_) {
        call(Kind::kSend, gathered(piece.box), {}, piece.box.elements(), piece.target);
      } else if (piece.target == rank_) {
        call(Kind::kReceive, {}, scattered(piece.box), piece.box.elements(), piece.source);
      }
    }
  }

  const Collective& collective_;
  const int rank_;
  const int members_;
  const std::vector<Piece> pieces_;
  ContiguousCalls plan_;
};

}  // namespace

ContiguousCalls contiguous_calls(const Collective& collective, int rank, int members) {
  return Planning(collective, rank, members).run();
}

}  // namespace moai::runtime
