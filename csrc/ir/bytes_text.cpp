#include "ir/bytes_text.h"

#include <cstddef>
#include <cstdio>
#include <iterator>

namespace moai {

std::string bytes_text(double bytes) {
  constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB"};
  char text[32];
  if (bytes < 10240) {
    std::snprintf(text, sizeof text, "%.0f bytes", bytes);
    return text;
  }
  size_t unit = 0;
  for (bytes /= 1024; bytes >= 1024 && unit + 1 < std::size(kUnits); bytes /= 1024) ++unit;
  std::snprintf(text, sizeof text, "%.1f %s", bytes, kUnits[unit]);
  return text;
}

}  // namespace moai
