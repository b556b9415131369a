#pragma once

#include <string>

#include "ir/graph.h"

// What print and parse must agree on.
namespace moai::ir {

constexpr char kViewWord[] = "view";
constexpr char kUpdateWord[] = "update";
constexpr char kReturnWord[] = "return";

// A list of integers prints as `[]` when empty; the other lists keep their kind.
constexpr char kEmptyFloats[] = "float[]";
constexpr char kEmptyBools[] = "bool[]";
constexpr char kEmptyOperands[] = "tensor[]";
constexpr char kEmptyNumbers[] = "number[]";

inline char number_letter(NumberKind kind) {
  return kind == NumberKind::kInt ? 'i' : kind == NumberKind::kFloat ? 'f' : 'b';
}

inline bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
inline bool is_name_part(char c) { return is_name_start(c) || (c >= '0' && c <= '9') || c == '.'; }

// Ops with any other name are printed in quotes.
inline bool is_plain_name(const std::string& name) {
  if (name.empty() || !is_name_start(name[0])) return false;
  for (const char c : name) {
    if (!is_name_part(c)) return false;
  }
  return name != kViewWord && name != kUpdateWord && name != kReturnWord;
}

// True when the strides need no printing: contiguous_strides(sizes).
inline bool strides_are_implied(const Dims& sizes, const Dims& strides) {
  if (sizes.size() != strides.size()) return false;
  uint64_t stride = 1;
  for (size_t i = sizes.size(); i-- > 0;) {
    if (static_cast<uint64_t>(strides[i]) != stride) return false;
    stride *= sizes[i] > 1 ? static_cast<uint64_t>(sizes[i]) : 1;
  }
  return true;
}

inline bool is_offset(const Arg& arg) {
  return std::holds_alternative<int64_t>(arg) || std::holds_alternative<NumberRef>(arg);
}

// `view(%0, offset=n1)`
inline bool has_view_form(const Node& node) {
  return node.operands.size() == 1 && node.args.size() == 1 && is_offset(node.args[0]);
}

// `update(%0, %1, [4,4]{8,1}, offset=n1)`
inline bool has_update_form(const Node& node) {
  return node.operands.size() == 2 && node.args.size() == 3 && std::holds_alternative<Dims>(node.args[0]) &&
         std::holds_alternative<Dims>(node.args[1]) && is_offset(node.args[2]);
}

// True when the arguments name each operand once and in order, so that they need no list of their own.
inline bool names_operands_in_order(const Node& node) {
  int32_t next = 0;
  for (const Arg& arg : node.args) {
    if (const auto* ref = std::get_if<OperandRef>(&arg)) {
      if (ref->operand != next++) return false;
    } else if (const auto* list = std::get_if<OperandListRef>(&arg)) {
      for (const int32_t operand : list->operands) {
        if (operand != kNone && operand != next++) return false;
      }
    }
  }
  return static_cast<size_t>(next) == node.operands.size();
}

}  // namespace moai::ir
