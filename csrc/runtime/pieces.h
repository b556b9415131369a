#pragma once

#include <cstdint>
#include <vector>

#include "runtime/communicator.h"

namespace moai::runtime {

// What two members' contiguous buffers have in common: `rows[0]` times `rows[1]` runs of `length` elements.
// Offsets and strides (from row to row) are in elements.
struct Box {
  int64_t rows[2] = {1, 1};
  int64_t length = 0;
  struct Side {
    int64_t offset = 0;
    int64_t strides[2] = {0, 0};
  };
  Side source;
  Side target;

  int64_t elements() const { return rows[0] * rows[1] * length; }
};

// A part of a collective's work: the elements of `box`, from one member or reduced over all, to one member
// or to all.
struct Piece {
  Box box;
  int source = 0;  // rank, or kAll
  int target = 0;
};
constexpr int kAll = -1;

// The work of a collective, which `verify` has passed, in a group of `members`; no piece is empty. Of a
// send: from rank 0 to rank 1.
std::vector<Piece> pieces_of(const Collective& collective, int members);

// Calls `run(source_offset, target_offset, count)` for the elements [start, end) of a box, counted row by
// row.
template <typename Run>
void for_runs(const Box& box, int64_t start, int64_t end, const Run& run) {
  int64_t row = start / box.length;
  int64_t column = start % box.length;
  int64_t outer = row / box.rows[1];
  int64_t inner = row % box.rows[1];
  while (start < end) {
    const int64_t rest = box.length - column;
    const int64_t count = rest < end - start ? rest : end - start;
    const auto offset = [&](const Box::Side& side) {
      return side.offset + outer * side.strides[0] + inner * side.strides[1] + column;
    };
    run(offset(box.source), offset(box.target), count);
    start += count;
    column = 0;
    if (++inner == box.rows[1]) {
      inner = 0;
      ++outer;
    }
  }
}

}  // namespace moai::runtime
