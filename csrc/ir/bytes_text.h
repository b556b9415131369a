#pragma once

#include <string>

namespace moai {

// Bytes as a reader wants them: `12.0 MiB`, and few of them to the last: `513 bytes`.
std::string bytes_text(double bytes);

}  // namespace moai
