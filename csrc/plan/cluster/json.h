#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moai::plan {

// A JSON value (RFC 8259), which remembers where it stood for messages.
struct Json {
  enum class Kind { kNull, kBool, kNumber, kString, kArray, kObject };

  Kind kind = Kind::kNull;
  bool truth = false;
  double number = 0;
  std::string text;                                   // of a string
  std::vector<Json> items;                            // of an array
  std::vector<std::pair<std::string, Json>> members;  // of an object, in order, names distinct
  int32_t line = 1;
  int32_t column = 1;

  // Null where an object has no such member.
  const Json* find(std::string_view name) const;
};

// "a number", "an object", …
const char* kind_name(Json::Kind kind);

// Throws Error(Phase::kConfig) with line and column. Values nest at most 64 deep.
Json parse_json(std::string_view text);

// A string in quotes, with what must be escaped.
std::string json_string(std::string_view text);
// The shortest text that reads back as the same number. Finite numbers only.
std::string json_number(double number);

}  // namespace moai::plan
