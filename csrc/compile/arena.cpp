#include "compile/arena.h"

#include <algorithm>
#include <cstddef>
#include <numeric>

#include "ir/error.h"

namespace moai::compile {

namespace {

// A buffer with its times counted in moments: the distinct starts, the only times at which the
// number of live bytes can grow.
struct Buffer {
  int64_t bytes;
  int32_t begin;  // first moment
  int32_t end;    // one past the last
};

// Height of what is placed so far, per moment. Both operations take logarithmic time.
class Skyline {
 public:
  explicit Skyline(int32_t moments) {
    while (leaves_ < moments) leaves_ *= 2;
    highest_.assign(2 * leaves_, 0);
    raised_.assign(2 * leaves_, 0);
  }

  int64_t highest(int32_t begin, int32_t end) const { return highest(1, 0, leaves_, begin, end); }
  // Only ever called with a height above everything in the range.
  void raise(int32_t begin, int32_t end, int64_t height) { raise(1, 0, leaves_, begin, end, height); }

 private:
  // `raised_` of a node holds for its whole range; children may stand higher.
  int64_t highest(size_t node, int32_t low, int32_t high, int32_t begin, int32_t end) const {
    if (begin <= low && high <= end) return highest_[node];
    const int32_t middle = (low + high) / 2;
    int64_t found = raised_[node];
    if (begin < middle) found = std::max(found, highest(2 * node, low, middle, begin, end));
    if (end > middle) found = std::max(found, highest(2 * node + 1, middle, high, begin, end));
    return found;
  }

  void raise(size_t node, int32_t low, int32_t high, int32_t begin, int32_t end, int64_t height) {
    highest_[node] = std::max(highest_[node], height);
    if (begin <= low && high <= end) {
      raised_[node] = height;
      return;
    }
    const int32_t middle = (low + high) / 2;
    if (begin < middle) raise(2 * node, low, middle, begin, end, height);
    if (end > middle) raise(2 * node + 1, middle, high, begin, end, height);
  }

  int32_t leaves_ = 1;
  std::vector<int64_t> highest_;
  std::vector<int64_t> raised_;
};

struct Layout {
  std::vector<int64_t> offsets;
  int64_t bytes = 0;
};

// Stacks each buffer on top of all that it meets. Perfect where lifetimes nest and the longest come
// first, as activations do that are freed in reverse.
Layout stack_up(const std::vector<Buffer>& buffers, const std::vector<int32_t>& order, int32_t moments) {
  Layout layout;
  layout.offsets.assign(buffers.size(), 0);
  Skyline skyline(moments);
  for (const int32_t i : order) {
    const Buffer& buffer = buffers[i];
    layout.offsets[i] = skyline.highest(buffer.begin, buffer.end);
    skyline.raise(buffer.begin, buffer.end, layout.offsets[i] + buffer.bytes);
    layout.bytes = std::max(layout.bytes, layout.offsets[i] + buffer.bytes);
  }
  return layout;
}

}  // namespace

ArenaPlan plan_arena(const std::vector<Interval>& intervals, int64_t alignment) {
  MOAI_ASSERT(alignment > 0);
  std::vector<int32_t> starts;
  for (const Interval& interval : intervals) {
    MOAI_ASSERT(interval.bytes >= 0 && interval.first <= interval.last, "bad interval");
    if (interval.bytes) starts.push_back(interval.first);
  }
  std::sort(starts.begin(), starts.end());
  starts.erase(std::unique(starts.begin(), starts.end()), starts.end());
  const auto moments = static_cast<int32_t>(starts.size());

  std::vector<Buffer> buffers;
  std::vector<int32_t> interval_of;
  for (size_t i = 0; i < intervals.size(); ++i) {
    const Interval& interval = intervals[i];
    if (interval.bytes == 0) continue;
    const auto begin = std::lower_bound(starts.begin(), starts.end(), interval.first);
    const auto end = std::upper_bound(begin, starts.end(), interval.last);
    buffers.push_back({(interval.bytes + alignment - 1) / alignment * alignment,
                       static_cast<int32_t>(begin - starts.begin()), static_cast<int32_t>(end - starts.begin())});
    interval_of.push_back(static_cast<int32_t>(i));
  }

  std::vector<int64_t> live(moments + 1);
  for (const Buffer& buffer : buffers) {
    live[buffer.begin] += buffer.bytes;
    live[buffer.end] -= buffer.bytes;
  }
  std::partial_sum(live.begin(), live.end(), live.begin());

  std::vector<int32_t> order(buffers.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    const int32_t moments_a = buffers[a].end - buffers[a].begin;
    const int32_t moments_b = buffers[b].end - buffers[b].begin;
    if (moments_a != moments_b) return moments_a > moments_b;
    if (buffers[a].bytes != buffers[b].bytes) return buffers[a].bytes > buffers[b].bytes;
    return a < b;
  });
  const Layout best = stack_up(buffers, order, moments);

  ArenaPlan plan{std::vector<int64_t>(intervals.size()), best.bytes, *std::max_element(live.begin(), live.end())};
  for (size_t i = 0; i < buffers.size(); ++i) plan.offsets[interval_of[i]] = best.offsets[i];
  return plan;
}

}  // namespace moai::compile
