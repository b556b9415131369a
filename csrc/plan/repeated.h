#pragma once

#include <cstdint>
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

}  // namespace moai::plan
