#include "ir/error.h"

namespace moai {

const char* phase_name(Phase phase) {
  switch (phase) {
    case Phase::kRecord: return "record";
    case Phase::kGraph: return "graph";
    case Phase::kPlan: return "plan";
    case Phase::kCompile: return "compile";
    case Phase::kRun: return "run";
    case Phase::kConfig: return "config";
  }
  return "?";
}

Error::Error(Phase phase, const std::string& what)
    : phase_(phase), text_(concat("moai ", phase_name(phase), ": ", what)) {}

Error& Error::detail(const std::string& text) & {
  text_ += "\n  " + text;
  return *this;
}

Error& Error::hint(const std::string& text) & {
  text_ += "\n  " + text;
  return *this;
}

void assertion_failed(const char* condition, const char* file, int line, const std::string& message) {
  throw std::logic_error(concat("moai internal error: ", condition, " failed at ", file, ":", line,
                                message.empty() ? "" : ": ", message,
                                "\n  please report this with the output of moai.dump()"));
}

}  // namespace moai
