#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

namespace moai::plan {

// A list of which many entries are the same, as those of equal layers are: each is held once.
template <typename T>
class Repeated {
 public:
  const T& operator[](size_t i) const { return distinct_[number_[i]]; }
  size_t size() const { return number_.size(); }
  size_t distinct() const { return distinct_.size(); }
  // The same for entries that share what they hold.
  int32_t number(size_t i) const { return number_[i]; }

  // For the next entry: something of its own, whose number comes back, or what has that number.
  int32_t push_back(T one) {
    number_.push_back(static_cast<int32_t>(distinct_.size()));
    distinct_.push_back(std::move(one));
    return number_.back();
  }
  void push_again(int32_t number) { number_.push_back(number); }

 private:
  std::vector<T> distinct_;
  std::vector<int32_t> number_;
};

// Finds things that were there before, by hash and by what makes them alike.
class FirstOfLike {
 public:
  // Of the places that came before, one that `is_like` this one; else remembers this one and returns it.
  template <typename IsLike>
  size_t place(uint64_t hash, size_t place, const IsLike& is_like) {
    const auto [begin, end] = first_.equal_range(hash);
    for (auto at = begin; at != end; ++at) {
      if (is_like(at->second)) return at->second;
    }
    first_.emplace(hash, place);
    return place;
  }

 private:
  std::unordered_multimap<uint64_t, size_t> first_;
};

}  // namespace moai::plan
