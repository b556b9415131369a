#include "ir/scanner.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "ir/error.h"
#include "ir/words.h"

namespace moai::ir {

namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

int hex_value(char c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

}  // namespace

void Scanner::fail(Place place, const std::string& what) const {
  const std::string_view before = text_.substr(0, place);
  const size_t line = std::count(before.begin(), before.end(), '\n') + 1;
  const size_t start = before.rfind('\n') == std::string_view::npos ? 0 : before.rfind('\n') + 1;
  const std::string_view shown = text_.substr(start, std::min(text_.find('\n', start), text_.size()) - start);
  throw Error(Phase::kGraph, concat("line ", line, ", column ", place - start + 1, ": ", what))
      .detail(std::string(shown.substr(0, 200)));
}

bool Scanner::accept(char sign) {
  if (!peek(sign)) return false;
  ++at_;
  skip();
  return true;
}

void Scanner::expect(char sign) {
  if (!accept(sign)) fail(at_, concat("expected `", sign, "`"));
}

void Scanner::expect_end() const {
  if (at_ != text_.size()) fail(at_, "expected the end of the text");
}

std::string_view Scanner::peek_label() const {
  size_t end = at_;
  while (end < text_.size() && is_name_part(text_[end])) ++end;
  return text_.substr(at_, end - at_);
}

std::string_view Scanner::peek_word() const {
  return at_ < text_.size() && is_name_start(text_[at_]) ? peek_label() : std::string_view();
}

std::string_view Scanner::word() {
  const std::string_view found = peek_word();
  if (found.empty()) fail(at_, "expected a word");
  at_ += found.size();
  skip();
  return found;
}

bool Scanner::accept_word(std::string_view word) {
  if (peek_word() != word) return false;
  at_ += word.size();
  skip();
  return true;
}

void Scanner::expect_word(std::string_view word) {
  if (!accept_word(word)) fail(at_, concat("expected `", word, "`"));
}

std::string_view Scanner::label() {
  const std::string_view found = peek_label();
  if (found.empty()) fail(at_, "expected a name");
  at_ += found.size();
  skip();
  return found;
}

bool Scanner::accept_literal(std::string_view literal) {
  if (text_.substr(at_, literal.size()) != literal) return false;
  at_ += literal.size();
  skip();
  return true;
}

// Everything up to the end of what may be a number, well-formed or not.
std::string_view Scanner::peek_digits() const {
  size_t end = at_;
  if (end < text_.size() && text_[end] == '-') ++end;
  const std::string_view rest = text_.substr(end, 3);
  if (rest == "inf" || rest == "nan") return text_.substr(at_, end + 3 - at_);
  while (end < text_.size()) {
    const char c = text_[end];
    const bool sign_of_exponent = (c == '-' || c == '+') && end > at_ && text_[end - 1] == 'e';
    if (!is_digit(c) && c != '.' && c != 'e' && !sign_of_exponent) break;
    ++end;
  }
  return text_.substr(at_, end - at_);
}

bool Scanner::peek_number() const {
  if (at_ >= text_.size()) return false;
  const std::string_view word = peek_word();
  return is_digit(text_[at_]) || text_[at_] == '-' || word == "inf" || word == "nan";
}

bool Scanner::peek_integer() const { return peek_digits().find_first_of(".ein") == std::string_view::npos; }

int64_t Scanner::integer() {
  const std::string_view digits = peek_digits();
  int64_t number = 0;
  const char* begin = digits.data();
  const char* end = begin + digits.size();
  const auto read = std::from_chars(begin, end, number);
  if (read.ec == std::errc::result_out_of_range) fail(at_, "this integer does not fit 64 bits");
  if (read.ec != std::errc() || read.ptr != end) fail(at_, "expected an integer");
  at_ += digits.size();
  skip();
  return number;
}

double Scanner::real() {
  const std::string_view digits = peek_digits();
  double number = 0;
  const char* begin = digits.data();
  const char* end = begin + digits.size();
  const auto read = std::from_chars(begin, end, number);
  const bool is_real = digits.find_first_of(".ein") != std::string_view::npos;
  if (!is_real || read.ec != std::errc() || read.ptr != end) {
    fail(at_, "expected a real number, with point or exponent");
  }
  at_ += digits.size();
  skip();
  return number;
}

std::string Scanner::string() {
  const Place start = at_;
  if (!peek('"')) fail(at_, "expected a string");
  ++at_;
  std::string found;
  while (at_ < text_.size() && text_[at_] != '"') {
    char c = text_[at_++];
    if (c == '\\') c = escaped(start);
    found += c;
  }
  if (at_ >= text_.size()) fail(start, "this string has no end");
  ++at_;
  skip();
  return found;
}

char Scanner::escaped(Place start) {
  if (at_ >= text_.size()) fail(start, "this string has no end");
  const char c = text_[at_++];
  if (c == '"' || c == '\\') return c;
  if (c == 'n') return '\n';
  const int high = c == 'x' && at_ + 1 < text_.size() ? hex_value(text_[at_]) : -1;
  const int low = high >= 0 ? hex_value(text_[at_ + 1]) : -1;
  if (low < 0) fail(at_ - 2, "an escape is one of \\\\ \\\" \\n \\xHH");
  at_ += 2;
  return static_cast<char>(high * 16 + low);
}

void Scanner::skip() {
  while (at_ < text_.size()) {
    const char c = text_[at_];
    if (c == '#') {
      at_ = std::min(text_.find('\n', at_), text_.size());
    } else if (c == ' ' || c == '\n' || c == '\t' || c == '\r') {
      ++at_;
    } else {
      return;
    }
  }
}

}  // namespace moai::ir
