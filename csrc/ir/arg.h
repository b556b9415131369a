#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "ir/graph.h"

// Hashes and equality of arguments, for hash.cpp and for finding common subexpressions.
namespace moai::ir {

// The same on every host and in every build: hashes name plans on disk.
inline uint64_t mix(uint64_t hash, uint64_t word) {
  hash ^= word + 0x9e3779b97f4a7c15;
  hash *= 0xbf58476d1ce4e5b9;
  hash ^= hash >> 29;
  hash *= 0x94d049bb133111eb;
  return hash ^ (hash >> 32);
}

// Tells 0.0 from -0.0, and takes all NaNs for one.
inline uint64_t bits(double number) {
  if (std::isnan(number)) number = std::nan("");
  uint64_t bits = 0;
  std::memcpy(&bits, &number, sizeof bits);
  return bits;
}
inline uint64_t bits(int64_t number) { return static_cast<uint64_t>(number); }
inline uint64_t bits(int32_t number) { return static_cast<uint64_t>(number); }
inline uint64_t bits(bool flag) { return flag; }

template <typename List>
uint64_t mix_list(uint64_t hash, const List& list) {
  hash = mix(hash, list.size());
  for (const auto item : list) hash = mix(hash, bits(item));
  return hash;
}

inline uint64_t mix_text(uint64_t hash, const std::string& text) {
  hash = mix(hash, text.size());
  for (size_t at = 0; at < text.size(); at += 8) {
    uint64_t word = 0;
    for (size_t i = at; i < at + 8 && i < text.size(); ++i)
      word = word << 8 | static_cast<unsigned char>(text[i]);
    hash = mix(hash, word);
  }
  return hash;
}

inline uint64_t mix_type(uint64_t hash, const Type& type) {
  return mix_list(mix_list(mix(hash, static_cast<uint64_t>(type.dtype)), type.sizes), type.strides);
}

// Mixes in the content of an argument; its kind is the caller's.
struct MixArg {
  uint64_t hash;

  uint64_t operator()(NoneArg) const { return hash; }
  uint64_t operator()(bool flag) const { return mix(hash, bits(flag)); }
  uint64_t operator()(int64_t number) const { return mix(hash, bits(number)); }
  uint64_t operator()(double number) const { return mix(hash, bits(number)); }
  uint64_t operator()(const std::string& text) const { return mix_text(hash, text); }
  uint64_t operator()(DTypeArg arg) const { return mix(hash, static_cast<uint64_t>(arg.dtype)); }
  uint64_t operator()(const std::vector<int64_t>& list) const { return mix_list(hash, list); }
  uint64_t operator()(const std::vector<double>& list) const { return mix_list(hash, list); }
  uint64_t operator()(const std::vector<bool>& list) const { return mix_list(hash, list); }
  uint64_t operator()(OperandRef ref) const { return mix(hash, bits(ref.operand)); }
  uint64_t operator()(const OperandListRef& ref) const { return mix_list(hash, ref.operands); }
  uint64_t operator()(NumberRef ref) const { return mix(hash, bits(ref.index)); }
  uint64_t operator()(const NumberListRef& ref) const { return mix_list(hash, ref.indices); }
  uint64_t operator()(const HostScalarArg& arg) const {
    return mix(mix(hash, bits(arg.number)), static_cast<uint64_t>(arg.dtype) << 1 | bits(arg.wrapped));
  }
};

inline uint64_t mix_arg(uint64_t hash, const Arg& arg) {
  return std::visit(MixArg{mix(hash, arg.index())}, arg);
}

// Whether an argument is a number of the step, whose position says nothing about what the node does.
inline bool is_number(const Arg& arg) {
  return std::holds_alternative<NumberRef>(arg) || std::holds_alternative<NumberListRef>(arg) ||
         std::holds_alternative<HostScalarArg>(arg);
}

// Of arguments what is static; of a number that it is one.
inline uint64_t mix_static(uint64_t hash, const std::vector<Arg>& args) {
  for (const Arg& arg : args) hash = is_number(arg) ? mix(hash, arg.index()) : mix_arg(hash, arg);
  return hash;
}

// Equality that agrees with the hash: doubles by their bits.
inline bool same_arg(const Arg& a, const Arg& b) {
  if (const auto* x = std::get_if<double>(&a)) {
    const auto* y = std::get_if<double>(&b);
    return y && bits(*x) == bits(*y);
  }
  if (const auto* x = std::get_if<std::vector<double>>(&a)) {
    const auto* y = std::get_if<std::vector<double>>(&b);
    if (!y || x->size() != y->size()) return false;
    for (size_t i = 0; i < x->size(); ++i) {
      if (bits((*x)[i]) != bits((*y)[i])) return false;
    }
    return true;
  }
  return a == b;
}

}  // namespace moai::ir
