#include "plan/cluster/json.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>

#include "ir/error.h"

namespace moai::plan {

namespace {

constexpr int kDeepest = 64;  // a text of brackets must not end the stack

class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  Json run() {
    Json value = this->value(0);
    skip();
    if (at_ < text_.size()) fail("expected the end of the JSON text");
    return value;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(Phase::kConfig, concat("JSON line ", line_, ", column ", column(), ": ", what));
  }

  int32_t column() const { return static_cast<int32_t>(at_ - line_start_) + 1; }
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  void skip() {
    for (; at_ < text_.size(); ++at_) {
      const char c = text_[at_];
      if (c == '\n') {
        ++line_;
        line_start_ = at_ + 1;
      } else if (c != ' ' && c != '\t' && c != '\r') {
        return;
      }
    }
  }

  bool accept(char sign) {
    skip();
    if (peek() != sign) return false;
    ++at_;
    return true;
  }

  void expect(char sign) {
    if (!accept(sign)) fail(concat("expected `", sign, "`"));
  }

  bool accept_word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  Json value(int depth) {
    if (depth > kDeepest) fail(concat("values nest more than ", kDeepest, " deep"));
    skip();
    Json value;
    value.line = line_;
    value.column = column();
    const char c = peek();
    if (c == '{') {
      object(&value, depth);
    } else if (c == '[') {
      array(&value, depth);
    } else if (c == '"') {
      value.kind = Json::Kind::kString;
      value.text = string();
    } else if (c == '-' || (c >= '0' && c <= '9')) {
      value.kind = Json::Kind::kNumber;
      value.number = number();
    } else if (accept_word("true") || accept_word("false")) {
      value.kind = Json::Kind::kBool;
      value.truth = c == 't';
    } else if (!accept_word("null")) {
      fail("expected a JSON value");
    }
    return value;
  }

  void object(Json* value, int depth) {
    value->kind = Json::Kind::kObject;
    expect('{');
    if (accept('}')) return;
    do {
      skip();
      if (peek() != '"') fail("expected the name of a field, in quotes");
      std::string name = string();
      if (value->find(name)) fail(concat("field `", name, "` is given twice"));
      expect(':');
      value->members.emplace_back(std::move(name), this->value(depth + 1));
    } while (accept(','));
    expect('}');
  }

  void array(Json* value, int depth) {
    value->kind = Json::Kind::kArray;
    expect('[');
    if (accept(']')) return;
    do {
      value->items.push_back(this->value(depth + 1));
    } while (accept(','));
    expect(']');
  }

  double number() {
    // from_chars takes what JSON does not: a leading zero, `1.` and `.5`.
    const size_t start = at_;
    if (peek() == '-') ++at_;
    const size_t whole = at_;
    digits();
    if (text_[whole] == '0' && at_ > whole + 1) fail("a number does not start with 0");
    if (peek() == '.') {
      ++at_;
      digits();
    }
    if (peek() == 'e' || peek() == 'E') {
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      digits();
    }
    double number = 0;
    const auto read = std::from_chars(text_.data() + start, text_.data() + at_, number);
    if (read.ec != std::errc() || !std::isfinite(number)) fail("this number is out of range");
    return number;
  }

  void digits() {
    const size_t start = at_;
    while (peek() >= '0' && peek() <= '9') ++at_;
    if (at_ == start) fail("expected a digit");
  }

  std::string string() {
    std::string found;
    ++at_;
    while (peek() != '"') {
      if (at_ >= text_.size()) fail("this string has no end");
      char c = text_[at_];
      if (static_cast<unsigned char>(c) < 0x20) fail("control characters in a string are escaped");
      ++at_;
      if (c == '\\') {
        escaped(&found);
      } else {
        found += c;
      }
    }
    ++at_;
    return found;
  }

  void escaped(std::string* found) {
    constexpr std::string_view kLetters = "\"\\/bfnrt";
    constexpr std::string_view kMeanings = "\"\\/\b\f\n\r\t";
    const char c = peek();
    const size_t which = kLetters.find(c);
    if (which != std::string_view::npos && at_ < text_.size()) {
      ++at_;
      *found += kMeanings[which];
      return;
    }
    if (!accept_word("u")) fail("unknown escape");
    uint32_t code = unit();
    if (code >= 0xD800 && code < 0xDC00 && accept_word("\\u")) {
      const uint32_t low = unit();
      if (low < 0xDC00 || low > 0xDFFF) fail("half a surrogate pair");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    } else if (code >= 0xD800 && code <= 0xDFFF) {
      fail("half a surrogate pair");
    }
    append_utf8(code, found);
  }

  uint32_t unit() {
    uint32_t code = 0;
    const std::string_view hex = text_.substr(at_, 4);
    const auto read = std::from_chars(hex.data(), hex.data() + hex.size(), code, 16);
    if (hex.size() < 4 || read.ptr != hex.data() + 4) fail("\\u needs four hexadecimal digits");
    at_ += 4;
    return code;
  }

  static void append_utf8(uint32_t code, std::string* out) {
    const auto tail = [&](int shift) { *out += static_cast<char>(0x80 | ((code >> shift) & 0x3F)); };
    if (code < 0x80) {
      *out += static_cast<char>(code);
    } else if (code < 0x800) {
      *out += static_cast<char>(0xC0 | (code >> 6));
      tail(0);
    } else if (code < 0x10000) {
      *out += static_cast<char>(0xE0 | (code >> 12));
      tail(6);
      tail(0);
    } else {
      *out += static_cast<char>(0xF0 | (code >> 18));
      tail(12);
      tail(6);
      tail(0);
    }
  }

  std::string_view text_;
  size_t at_ = 0;
  size_t line_start_ = 0;
  int32_t line_ = 1;
};

}  // namespace

const Json* Json::find(std::string_view name) const {
  const auto found =
      std::find_if(members.begin(), members.end(), [&](const auto& member) { return member.first == name; });
  return found == members.end() ? nullptr : &found->second;
}

const char* kind_name(Json::Kind kind) {
  switch (kind) {
    case Json::Kind::kNull: return "null";
    case Json::Kind::kBool: return "true or false";
    case Json::Kind::kNumber: return "a number";
    case Json::Kind::kString: return "a string";
    case Json::Kind::kArray: return "an array";
    case Json::Kind::kObject: return "an object";
  }
  return "?";
}

Json parse_json(std::string_view text) { return Reader(text).run(); }

std::string json_string(std::string_view text) {
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) < 0x20) {
      out += "\\u00";
      out += kHex[c >> 4];
      out += kHex[c & 15];
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string json_number(double number) {
  std::array<char, 32> digits{};
  const auto written = std::to_chars(digits.data(), digits.data() + digits.size(), number);
  return std::string(digits.data(), written.ptr);
}

}  // namespace moai::plan
