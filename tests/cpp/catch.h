// Catch2, version 2 (Debian 12, Ubuntu 22.04) or 3 (Ubuntu 24.04), under version 3's names.
#pragma once

#if __has_include(<catch2/catch_all.hpp>)

#include <catch2/catch_all.hpp>

#else

#include <catch2/catch.hpp>

namespace Catch {
using Detail::Approx;
namespace Matchers {
inline auto ContainsSubstring(const std::string& text) { return Contains(text); }
}  // namespace Matchers
}  // namespace Catch

#endif

using Catch::Approx;
using Catch::Matchers::ContainsSubstring;
