#include "compile/arena.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <limits>
#include <map>
#include <type_traits>
#include <utility>

#include "ir/error.h"

namespace moai::compile {

namespace {

// A buffer with its times counted in moments: the distinct starts, the only times at which the
// number of live bytes can grow.
struct Buffer {
  int64_t bytes;
  int32_t begin;     // first moment
  int32_t end;       // last moment
  int32_t interval;  // which of the caller's
};

using Offsets = std::vector<int64_t>;  // per buffer

int64_t total_bytes(const std::vector<Buffer>& buffers, const Offsets& offsets) {
  int64_t total = 0;
  for (size_t i = 0; i < buffers.size(); ++i) total = std::max(total, offsets[i] + buffers[i].bytes);
  return total;
}

// Which buffers, those with the lowest key first.
template <typename Key>
std::vector<int32_t> sorted(const std::vector<Buffer>& buffers, const Key& key) {
  std::vector<std::pair<std::invoke_result_t<Key, const Buffer&>, int32_t>> keys;
  keys.reserve(buffers.size());
  for (const Buffer& buffer : buffers) keys.emplace_back(key(buffer), static_cast<int32_t>(keys.size()));
  std::sort(keys.begin(), keys.end());
  std::vector<int32_t> order;
  order.reserve(keys.size());
  for (const auto& entry : keys) order.push_back(entry.second);
  return order;
}

// Gives each buffer, from the first to the last moment, the lowest gap that is wide enough among
// those alive. Fast, and seldom far from the bound. Takes time n log n plus the gaps seen.
Offsets fit_in_time(const std::vector<Buffer>& buffers) {
  // Of those that start together, the longest lie lowest.
  const auto by_begin = sorted(buffers, [](const Buffer& b) { return std::make_pair(b.begin, -b.end); });
  const auto by_end = sorted(buffers, [](const Buffer& b) { return b.end; });
  Offsets offsets(buffers.size());
  std::map<int64_t, int64_t> gaps{{0, std::numeric_limits<int64_t>::max()}};  // start to end
  auto ended = by_end.begin();
  for (const int32_t i : by_begin) {
    for (; buffers[*ended].end < buffers[i].begin; ++ended) {
      auto gap = gaps.emplace(offsets[*ended], offsets[*ended] + buffers[*ended].bytes).first;
      const auto next = std::next(gap);
      if (next != gaps.end() && gap->second == next->first) {
        gap->second = next->second;
        gaps.erase(next);
      }
      if (gap != gaps.begin() && std::prev(gap)->second == gap->first) {
        std::prev(gap)->second = gap->second;
        gaps.erase(gap);
      }
    }
    auto gap = gaps.begin();
    while (gap->second - gap->first < buffers[i].bytes) ++gap;
    offsets[i] = gap->first;
    const int64_t end = gap->second;
    const auto hint = gaps.erase(gap);
    if (offsets[i] + buffers[i].bytes < end) gaps.emplace_hint(hint, offsets[i] + buffers[i].bytes, end);
  }
  return offsets;
}

// Buffers that have their place, to be asked for gaps between them.
class Shelf {
 public:
  Shelf(size_t buffers, int32_t moments) : bucket_moments_(moments / kBuckets + 1) {
    by_offset_.reserve(buffers);
  }

  // The lowest offset at which nothing is in the way.
  int64_t lowest_gap(const Buffer& buffer) {
    const int32_t first = buffer.begin / bucket_moments_;
    const int32_t last = buffer.end / bucket_moments_;
    size_t near = 0;
    for (int32_t b = first; b <= last; ++b) near += buckets_[b].size();
    if (near * kSortingCost > by_offset_.size()) return lowest_gap(buffer, by_offset_);

    // Few buffers live near: better sort those than walk over all.
    near_.clear();
    for (int32_t b = first; b <= last; ++b) {
      for (const Placed& placed : buckets_[b]) {
        if (b == first || placed.begin / bucket_moments_ == b) near_.push_back(placed);
      }
    }
    std::sort(near_.begin(), near_.end(),
              [](const Placed& a, const Placed& b) { return a.offset < b.offset; });
    return lowest_gap(buffer, near_);
  }

  void place(const Buffer& buffer, int64_t offset) {
    const Placed placed{offset, offset + buffer.bytes, buffer.begin, buffer.end};
    const auto above = std::upper_bound(by_offset_.begin(), by_offset_.end(), offset,
                                        [](int64_t offset, const Placed& p) { return offset < p.offset; });
    by_offset_.insert(above, placed);
    const int32_t last = buffer.end / bucket_moments_;
    for (int32_t b = buffer.begin / bucket_moments_; b <= last; ++b) buckets_[b].push_back(placed);
  }

 private:
  static constexpr int32_t kBuckets = 64;
  static constexpr size_t kSortingCost = 16;  // of one, in steps of a walk

  struct Placed {
    int64_t offset;
    int64_t top;
    int32_t begin;
    int32_t end;
  };

  static int64_t lowest_gap(const Buffer& buffer, const std::vector<Placed>& by_offset) {
    int64_t offset = 0;
    for (const Placed& other : by_offset) {
      const bool meets = (other.begin <= buffer.end) & (other.end >= buffer.begin);  // & spares a branch
      if (meets & (other.offset - offset >= buffer.bytes)) break;
      offset = (meets & (other.top > offset)) ? other.top : offset;
    }
    return offset;
  }

  int32_t bucket_moments_;
  std::vector<Placed> by_offset_;
  std::vector<Placed> buckets_[kBuckets];  // those alive in a stretch of moments
  std::vector<Placed> near_;
};

// Gives each buffer, those with the lowest key first, the lowest gap that is free during all its
// life. Takes quadratic time, about a nanosecond a pair.
template <typename Key>
Offsets fit_by(const Key& key, const std::vector<Buffer>& buffers, int32_t moments) {
  Shelf shelf(buffers.size(), moments);
  Offsets offsets(buffers.size());
  for (const int32_t i : sorted(buffers, key)) {
    offsets[i] = shelf.lowest_gap(buffers[i]);
    shelf.place(buffers[i], offsets[i]);
  }
  return offsets;
}

// Keys, the best first. Large ones must not find the arena cut up; among those of much the same
// size, long ones must not find it cut up in time.
std::pair<int, int32_t> size_class(const Buffer& buffer) {
  return {-std::ilogb(static_cast<double>(buffer.bytes)), buffer.begin - buffer.end};
}
int64_t size(const Buffer& buffer) { return -buffer.bytes; }
double size_and_life(const Buffer& buffer) {
  return -static_cast<double>(buffer.bytes) * std::sqrt(static_cast<double>(buffer.end - buffer.begin + 1));
}

// Those buffers with non-empty content, their ends rounded to moments and their bytes to the alignment.
std::vector<Buffer> read(const std::vector<Interval>& intervals, int64_t alignment, int32_t* moments) {
  std::vector<int32_t> starts;
  for (const Interval& interval : intervals) {
    MOAI_ASSERT(interval.bytes >= 0 && interval.first <= interval.last, "bytes ", interval.bytes, ", from ",
                interval.first, " to ", interval.last);
    if (interval.bytes) starts.push_back(interval.first);
  }
  std::sort(starts.begin(), starts.end());
  starts.erase(std::unique(starts.begin(), starts.end()), starts.end());
  *moments = static_cast<int32_t>(starts.size());

  std::vector<Buffer> buffers;
  buffers.reserve(intervals.size());
  for (size_t i = 0; i < intervals.size(); ++i) {
    const Interval& interval = intervals[i];
    if (interval.bytes == 0) continue;
    const auto begin = std::lower_bound(starts.begin(), starts.end(), interval.first);
    const auto end = std::upper_bound(begin, starts.end(), interval.last);
    buffers.push_back({(interval.bytes + alignment - 1) / alignment * alignment,
                       static_cast<int32_t>(begin - starts.begin()),
                       static_cast<int32_t>(end - starts.begin() - 1), static_cast<int32_t>(i)});
  }
  return buffers;
}

int64_t most_live_bytes(const std::vector<Buffer>& buffers, int32_t moments) {
  std::vector<int64_t> change(moments + 1);
  for (const Buffer& buffer : buffers) {
    change[buffer.begin] += buffer.bytes;
    change[buffer.end + 1] -= buffer.bytes;
  }
  int64_t live = 0;
  int64_t most = 0;
  for (const int64_t bytes : change) most = std::max(most, live += bytes);
  return most;
}

// Takes out the smallest buffers: as many as `bytes` hold, and all beyond the `most` largest.
std::vector<Buffer> take_small(std::vector<Buffer>* buffers, int64_t bytes, size_t most) {
  std::vector<Buffer> small;
  std::vector<Buffer> large;
  for (const int32_t i : sorted(*buffers, [](const Buffer& b) { return b.bytes; })) {
    const Buffer& buffer = (*buffers)[i];
    const bool is_small = buffer.bytes <= bytes || small.size() + most < buffers->size();
    (is_small ? small : large).push_back(buffer);
    bytes -= buffer.bytes;
  }
  *buffers = std::move(large);
  return small;
}

// Writes where the buffers lie, all `base` higher; returns the highest end.
int64_t write(const std::vector<Buffer>& buffers, const Offsets& offsets, int64_t base,
              Offsets* of_intervals) {
  for (size_t i = 0; i < buffers.size(); ++i) (*of_intervals)[buffers[i].interval] = base + offsets[i];
  return base + total_bytes(buffers, offsets);
}

// Small buffers are too many and too small to matter, so they go above the large ones.
constexpr int64_t kSmallShare = 1000;  // of the bound: what they may cost is a thousandth
constexpr size_t kMostLarge = 8192;
// With fewer than these there is time to try more than the best order.
constexpr size_t kMostTried = 2048;

}  // namespace

ArenaPlan plan_arena(const std::vector<Interval>& intervals, int64_t alignment) {
  MOAI_ASSERT(alignment > 0, "alignment ", alignment);
  int32_t moments = 0;
  std::vector<Buffer> large = read(intervals, alignment, &moments);
  ArenaPlan plan{Offsets(intervals.size()), 0, most_live_bytes(large, moments)};
  plan.bytes = write(large, fit_in_time(large), 0, &plan.offsets);

  const int64_t tolerance = plan.lower_bound / kSmallShare;
  const auto is_near = [&] { return plan.bytes <= plan.lower_bound + tolerance; };
  if (is_near()) return plan;
  const std::vector<Buffer> small = take_small(&large, tolerance, kMostLarge);
  const Offsets above = fit_in_time(small);
  Offsets offsets(intervals.size());
  const auto keep_better = [&](const Offsets& of_large) {
    const int64_t bytes = write(small, above, write(large, of_large, 0, &offsets), &offsets);
    if (bytes >= plan.bytes) return;
    plan.offsets = offsets;
    plan.bytes = bytes;
  };
  keep_better(fit_by(size_class, large, moments));
  if (large.size() > kMostTried) return plan;
  if (!is_near()) keep_better(fit_by(size, large, moments));
  if (!is_near()) keep_better(fit_by(size_and_life, large, moments));
  return plan;
}

}  // namespace moai::compile
