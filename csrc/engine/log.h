#pragma once

#include <string>

namespace moai::engine {

// What MOAI_LOG can ask for, as a comma-separated list of lower-case names.
enum class Topic : int { kCut, kCompile, kTrace, kAtOnce, kMemory, kCount };

// One load; read once from MOAI_LOG. Throws Error(Phase::kConfig) that lists the valid names when
// the variable holds another.
bool logs(Topic topic);
// Checks the variable and switches topics on. Called at import.
void configure_log(const std::string& names);
// A line on stderr: `moai cut: …`.
void log(Topic topic, const std::string& text);

// A line on stderr that nobody has to ask for: `moai: …`. Each is said once.
void say(const std::string& text);

}  // namespace moai::engine
