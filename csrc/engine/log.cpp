#include "engine/log.h"

#include <atomic>
#include <cstdio>
#include <mutex>
#include <set>
#include <sstream>

#include "ir/error.h"

namespace moai::engine {

namespace {

constexpr const char* kNames[] = {"cut", "compile", "trace", "at_once", "memory"};
static_assert(sizeof(kNames) / sizeof(kNames[0]) == static_cast<size_t>(Topic::kCount));

std::atomic<uint32_t> enabled{0};

}  // namespace

bool logs(Topic topic) { return (enabled.load(std::memory_order_relaxed) >> static_cast<int>(topic)) & 1U; }

void configure_log(const std::string& names) {
  uint32_t wanted = 0;
  std::istringstream in(names);
  std::string name;
  while (std::getline(in, name, ',')) {
    if (name.empty()) continue;
    bool found = false;
    for (int i = 0; i < static_cast<int>(Topic::kCount); ++i) {
      if (name != kNames[i] && name != "all") continue;
      wanted |= 1U << i;
      found = true;
    }
    if (!found) {
      std::string valid = "all";
      for (const char* known : kNames) valid += std::string(", ") + known;
      throw Error(Phase::kConfig, concat("MOAI_LOG holds '", name, "', which is no topic"))
          .hint("valid: " + valid);
    }
  }
  enabled.store(wanted, std::memory_order_relaxed);
}

void log(Topic topic, const std::string& text) {
  const std::string line = std::string("moai ") + kNames[static_cast<int>(topic)] + ": " + text + "\n";
  std::fwrite(line.data(), 1, line.size(), stderr);
}

void say(const std::string& text) {
  static std::mutex lock;
  static auto* said = new std::set<std::string>;
  const std::lock_guard<std::mutex> guard(lock);
  if (!said->insert(text).second) return;
  const std::string line = "moai: " + text + "\n";
  std::fwrite(line.data(), 1, line.size(), stderr);
}

}  // namespace moai::engine
