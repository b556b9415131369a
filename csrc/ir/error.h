#pragma once

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

namespace moai {

// Where in a step's way an error arose; printed as the first word of the message.
enum class Phase { kRecord, kGraph, kPlan, kCompile, kRun, kConfig };

const char* phase_name(Phase phase);

// Joins anything printable into one string.
template <typename... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  (static_cast<void>(out << parts), ...);
  return out.str();
}

// An error of ours: what happened, then details, then what would work.
//
//   throw Error(Phase::kPlan, "no plan fits").detail("largest value: ...").hint("would fit: ...");
class Error : public std::exception {
 public:
  Error(Phase phase, const std::string& what);
  Error& detail(const std::string& text) &;
  Error&& detail(const std::string& text) && { return std::move(detail(text)); }
  Error& hint(const std::string& text) &;
  Error&& hint(const std::string& text) && { return std::move(hint(text)); }
  Phase phase() const { return phase_; }
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  Phase phase_;
  std::string text_;
};

// A device, or the machine, has no room for what was asked; torch.OutOfMemoryError in Python.
class OutOfMemory : public Error {
 public:
  using Error::Error;
};

// More rows went to a device's experts than it has slots: see Note [Rows by expert] in ops/expert_rows.h.
class OutOfSlots : public Error {
 public:
  explicit OutOfSlots(int64_t rows)
      : Error(Phase::kRun, concat(rows, " rows more go to a device's experts than it has slots for")) {}
};

[[noreturn]] void assertion_failed(const char* condition, const char* file, int line,
                                   const std::string& message);

}  // namespace moai

// For our own bugs only: what the user did wrong throws Error.
#define MOAI_ASSERT(condition, ...)                                                          \
  do {                                                                                       \
    if (__builtin_expect(!(condition), 0)) {                                                 \
      ::moai::assertion_failed(#condition, __FILE__, __LINE__, ::moai::concat(__VA_ARGS__)); \
    }                                                                                        \
  } while (false)
