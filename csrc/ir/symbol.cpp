#include "ir/symbol.h"

#include <mutex>
#include <unordered_set>

namespace moai::ir {

Symbol Symbol::intern(const std::string& name) {
  if (name.empty()) return Symbol();
  // Leaked on purpose: names are read by threads that outlive static destruction.
  static auto* lock = new std::mutex;
  static auto* names = new std::unordered_set<std::string>;
  const std::lock_guard<std::mutex> guard(*lock);
  return Symbol(&*names->insert(name).first);
}

const std::string* Symbol::empty() {
  static const auto* text = new std::string;
  return text;
}

}  // namespace moai::ir
