#include "plan/halo.h"

#include <algorithm>
#include <cstdlib>
#include <set>

#include "catch.h"

namespace moai::plan {

namespace {

int64_t places_of(const ops::Window& window, int64_t seen) {
  return (seen + 2 * window.padding - (window.size - 1) * window.dilation - 1) / window.stride + 1;
}

std::set<int64_t> indices(const Part& part) {
  std::set<int64_t> all;
  for (int64_t i = part.start; i < part.end(); ++i) all.insert(i);
  return all;
}

}  // namespace

TEST_CASE("halo: a window of three rows sees one of each neighbour's") {
  const Halo halo({0, 3, 1, 1, 1}, 12, 1, 12, 1, 3);
  CHECK(indices(halo.seen(0)) == indices({-1, 6}));
  CHECK(indices(halo.real(0)) == indices({0, 5}));
  CHECK(indices(halo.seen(1)) == indices({3, 6}));
  CHECK(halo.given(0) == 1);
  CHECK(halo.given(1) == 2);
  CHECK(halo.all_given() == 4);
  CHECK(halo.all_returned() == 4);
  CHECK(halo.most_seen() == 6);
}

TEST_CASE("halo: windows that fit the parts see nothing of others") {
  const Halo patches({0, 4, 4, 0, 1}, 24, 1, 6, 1, 3);
  CHECK(patches.all_given() == 0);
  CHECK(patches.all_returned() == 0);
}

TEST_CASE("halo: parts of compound dims are whole groups") {
  const Halo halo({0, 3, 1, 1, 1}, 12, 4, 12, 2, 3);
  CHECK(indices(halo.own(1)) == indices({4, 4}));
  CHECK(indices(halo.seen(1)) == indices({3, 6}));
}

TEST_CASE("halo: all that a part sees is its own or given, and all that it makes of others' is returned") {
  int32_t wide = 0;
  for (int64_t size : {1, 2, 3, 5, 7}) {
    for (int64_t stride : {1, 2, 3}) {
      for (int64_t padding : {0, 1, 4}) {
        for (int64_t dilation : {1, 2}) {
          const ops::Window window{0, size, stride, padding, dilation};
          for (int64_t seen : {4, 9, 16}) {
            const int64_t seers = places_of(window, seen);
            for (int64_t parts = 2; parts <= std::min(seen, seers); ++parts) {
              INFO("size " << size << ", stride " << stride << ", padding " << padding << ", dilation "
                           << dilation << ", " << parts << " parts of " << seen);
              const Halo halo(window, seen, 1, seers, 1, parts);
              std::set<int64_t> owned;
              for (int64_t i = 0; i < parts; ++i) {
                owned.merge(indices(halo.own(i)));
                std::set<int64_t> there = indices(halo.own(i));
                int64_t foreign = 0;
                for (int64_t other = 0; other < parts; ++other) {
                  if (other == i) continue;
                  there.merge(indices(halo.first(other)));
                  there.merge(indices(halo.last(other)));
                  foreign += halo.foreign(i, other).length;
                  wide += halo.foreign(i, other).length > 0 && std::abs(i - other) > 1;
                }
                const auto real = indices(halo.real(i));
                REQUIRE(std::includes(there.begin(), there.end(), real.begin(), real.end()));
                REQUIRE(foreign == halo.returned(i));
                REQUIRE(halo.given(i) <= halo.own(i).length);
              }
              REQUIRE(owned == indices({0, seen}));
            }
          }
        }
      }
    }
  }
  CHECK(wide > 100);
}

}  // namespace moai::plan
