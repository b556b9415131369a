#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace moai::ir {

// A position in the text, in bytes.
using Place = size_t;

// Reads words, numbers, strings and signs from a text, stepping over spaces and `#` comments.
// Every function but accept_ and peek_ throws Error(Phase::kGraph) with line and column.
class Scanner {
 public:
  explicit Scanner(const std::string& text) : text_(text) { skip(); }

  // Where the next thing starts.
  Place next() const { return at_; }
  [[noreturn]] void fail(Place place, const std::string& what) const;

  bool peek(char sign) const { return at_ < text_.size() && text_[at_] == sign; }
  bool accept(char sign);
  void expect(char sign);
  void expect_end() const;

  // Letters, digits, `_` and `.`, not starting with a digit.
  std::string_view word();
  std::string_view peek_word() const;
  bool accept_word(std::string_view word);
  void expect_word(std::string_view word);
  // As a word, but may start with a digit: the name of a value.
  std::string_view label();
  // The exact characters, such as `bool[]`.
  bool accept_literal(std::string_view literal);

  // `-3`, `1.5`, `1e-05`, `inf`, `-inf`, `nan`.
  bool peek_number() const;
  // Whether that number has neither point nor exponent.
  bool peek_integer() const;
  int64_t integer();
  double real();
  // In quotes, with \\ \" \n \xHH.
  std::string string();

 private:
  void skip();
  std::string_view peek_label() const;
  std::string_view peek_digits() const;
  char escaped(Place start);

  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace moai::ir
