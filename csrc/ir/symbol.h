#pragma once

#include <functional>
#include <string>

namespace moai::ir {

// An interned name: compared and hashed by address, printed as its text. Names live for ever.
class Symbol {
 public:
  Symbol() : name_(empty()) {}
  // Thread-safe; takes a lock, so intern once and keep the Symbol.
  static Symbol intern(const std::string& name);

  const std::string& str() const { return *name_; }
  bool operator==(Symbol other) const { return name_ == other.name_; }
  bool operator!=(Symbol other) const { return name_ != other.name_; }

 private:
  friend struct std::hash<Symbol>;
  explicit Symbol(const std::string* name) : name_(name) {}
  static const std::string* empty();
  const std::string* name_;
};

}  // namespace moai::ir

template <>
struct std::hash<moai::ir::Symbol> {
  size_t operator()(moai::ir::Symbol symbol) const { return std::hash<const void*>()(symbol.name_); }
};
