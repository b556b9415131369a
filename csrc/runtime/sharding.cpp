#include "runtime/sharding.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "ir/arg.h"
#include "ir/error.h"

namespace moai::runtime {

namespace {

bool is_full(const Sharding::Range& range) { return range.length == range.size; }

// Joins neighbouring digits of which the inner one is full on every device: one range says the same. Digits
// of one element say nothing.
void join_digits(const std::vector<Sharding::Digits*>& parts) {
  if (parts.empty()) return;
  const size_t count = parts.front()->size();
  std::vector<Sharding::Digits> joined(parts.size());
  for (size_t k = 0; k < count; ++k) {
    const bool full =
        std::all_of(parts.begin(), parts.end(), [&](const auto* p) { return is_full((*p)[k]); });
    const bool outermost = joined.front().empty();
    const bool outer_is_one = !outermost && std::all_of(joined.begin(), joined.end(), [](const auto& digits) {
      return digits.back().size == 1 && digits.back().length == 1;
    });
    for (size_t d = 0; d < parts.size(); ++d) {
      const auto& range = (*parts[d])[k];
      if (outermost) {
        joined[d].push_back(range);
      } else if (full) {
        auto& outer = joined[d].back();
        outer = {outer.size * range.size, outer.start * range.size, outer.length * range.size};
      } else if (outer_is_one) {
        joined[d].back() = range;
      } else {
        joined[d].push_back(range);
      }
    }
  }
  for (size_t d = 0; d < parts.size(); ++d) *parts[d] = std::move(joined[d]);
}

}  // namespace

Sharding::Sharding(const ir::Type& whole, const std::vector<std::vector<Digits>>& by_device,
                   const std::vector<bool>& holds)
    : bytes_(whole.bytes()) {
  std::vector<size_t> order(whole.sizes.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return whole.strides[a] > whole.strides[b]; });
  const int64_t item = ir::element_bytes(whole.dtype);
  for (size_t d = 0; d < by_device.size(); ++d) {
    parts_.emplace_back();
    if (!holds.empty() && !holds[d]) continue;
    const auto& dims = by_device[d];
    MOAI_ASSERT(dims.size() == order.size(), "a part of other dims than ", whole.str());
    for (const size_t dim : order)
      parts_.back().insert(parts_.back().end(), dims[dim].begin(), dims[dim].end());
    parts_.back().push_back({item, 0, item});
    if (bytes_ == 0) parts_.back() = {{0, 0, 0}};
  }
  std::vector<Digits*> held;
  for (auto& part : parts_) {
    if (!part.empty()) held.push_back(&part);
  }
  if (bytes_ != 0) join_digits(held);
}

Sharding Sharding::replicated(int64_t bytes, size_t devices) {
  Sharding sharding;
  sharding.bytes_ = bytes;
  sharding.parts_.assign(devices, {{bytes, 0, bytes}});
  return sharding;
}

int64_t Sharding::part_bytes(size_t device) const {
  if (!holds(device)) return 0;
  int64_t bytes = 1;
  for (const auto& range : parts_[device]) bytes *= range.length;
  return bytes;
}

uint64_t Sharding::hash() const {
  uint64_t hash = ir::mix(0, ir::bits(bytes_));
  for (const auto& part : parts_) {
    hash = ir::mix(hash, part.size());
    for (const auto& range : part) {
      for (const int64_t number : {range.size, range.start, range.length})
        hash = ir::mix(hash, ir::bits(number));
    }
  }
  return hash;
}

bool Sharding::is_repeated(size_t device) const {
  return std::find(parts_.begin(), parts_.begin() + static_cast<std::ptrdiff_t>(device), parts_[device]) !=
         parts_.begin() + static_cast<std::ptrdiff_t>(device);
}

// Calls `move(offset in the whole, offset in the part, bytes)` for each run of neighbouring bytes.
template <typename Move>
void Sharding::each_run(size_t device, const Move& move) const {
  const Digits& digits = parts_[device];
  const int64_t total = part_bytes(device);
  if (total == 0) return;
  const int64_t run = digits.back().length;
  const size_t outer = digits.size() - 1;
  std::vector<int64_t> strides(digits.size(), 1);
  for (size_t k = outer; k-- > 0;) strides[k] = strides[k + 1] * digits[k + 1].size;
  int64_t at = digits.back().start;
  for (size_t k = 0; k < outer; ++k) at += digits[k].start * strides[k];
  std::vector<int64_t> index(outer, 0);
  for (int64_t done = 0; done < total; done += run) {
    move(at, done, run);
    for (size_t k = outer; k-- > 0;) {
      at += strides[k];
      if (++index[k] < digits[k].length) break;
      at -= digits[k].length * strides[k];
      index[k] = 0;
    }
  }
}

void Sharding::cut(size_t device, const void* whole, void* part) const {
  each_run(device, [&](int64_t in_whole, int64_t in_part, int64_t bytes) {
    std::memcpy(static_cast<char*>(part) + in_part, static_cast<const char*>(whole) + in_whole,
                static_cast<size_t>(bytes));
  });
}

int64_t Sharding::paste(size_t device, const void* part, void* whole, const Region& wanted) const {
  const auto runs = wanted.runs();
  auto next = runs.begin();
  int64_t pasted = 0;
  // Both go up, so one pass over each is enough.
  each_run(device, [&](int64_t in_whole, int64_t in_part, int64_t bytes) {
    while (next != runs.end() && next->second <= in_whole) ++next;
    for (auto it = next; it != runs.end() && it->first < in_whole + bytes; ++it) {
      const int64_t begin = std::max(in_whole, it->first), end = std::min(in_whole + bytes, it->second);
      std::memcpy(static_cast<char*>(whole) + begin,
                  static_cast<const char*>(part) + in_part + begin - in_whole,
                  static_cast<size_t>(end - begin));
      pasted += end - begin;
    }
  });
  return pasted;
}

void Sharding::paste(size_t device, const void* part, void* whole) const {
  each_run(device, [&](int64_t in_whole, int64_t in_part, int64_t bytes) {
    std::memcpy(static_cast<char*>(whole) + in_whole, static_cast<const char*>(part) + in_part,
                static_cast<size_t>(bytes));
  });
}

}  // namespace moai::runtime
