// Where the parts of a value lie: cut apart and put together, and when two ways are one.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "catch.h"
#include "random_views.h"
#include "runtime/sharding.h"

namespace moai::runtime {
namespace {

using Dims = std::vector<Sharding::Digits>;
using Ranges = Sharding::Digits;

std::vector<uint8_t> counting(int64_t bytes) {
  std::vector<uint8_t> all(static_cast<size_t>(bytes));
  std::iota(all.begin(), all.end(), uint8_t{0});
  return all;
}

// Parts of a random dim: its atoms, one of which the devices may divide, unevenly.
struct RandomParts {
  explicit RandomParts(uint32_t seed) : random(seed), views(seed) {}

  int64_t below(int64_t end) { return static_cast<int64_t>(random() % static_cast<uint64_t>(end)); }

  std::vector<Dims> make(const ir::Type& type, size_t devices) {
    std::vector<Dims> parts(devices, Dims(type.sizes.size()));
    for (size_t d = 0; d < type.sizes.size(); ++d) {
      for (const int64_t atom : atoms_of(type.sizes[d])) {
        const bool cut = below(3) == 0;
        int64_t start = 0;
        for (size_t i = 0; i < devices; ++i) {
          const int64_t left = static_cast<int64_t>(devices - i);
          const int64_t length = cut ? (left == 1 ? atom - start : below(atom - start + 1)) : atom;
          parts[i][d].push_back({atom, cut ? start : 0, length});
          if (cut) start += length;
        }
      }
    }
    return parts;
  }

  std::vector<int64_t> atoms_of(int64_t size) {
    for (int64_t inner = 2; inner < size; ++inner) {
      if (size % inner == 0 && below(2)) return {size / inner, inner};
    }
    return {size};
  }

  std::mt19937 random;
  ir::RandomViews views;
};

// The bytes of a device's part, found element by element.
std::vector<uint8_t> expected(const ir::Type& type, const Dims& part, const std::vector<uint8_t>& whole) {
  const int64_t item = ir::element_bytes(type.dtype);
  std::vector<size_t> order(type.sizes.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return type.strides[a] > type.strides[b]; });
  ir::Dims counts;
  for (const size_t d : order) {
    for (const auto& range : part[d]) counts.push_back(range.length);
  }
  std::vector<uint8_t> bytes;
  ir::for_each_index(counts, [&](const ir::Dims& index) {
    int64_t at = 0;
    size_t k = 0;
    for (const size_t d : order) {
      int64_t in_dim = 0;
      for (const auto& range : part[d]) in_dim = in_dim * range.size + range.start + index[k++];
      at += in_dim * type.strides[d];
    }
    bytes.insert(bytes.end(), whole.begin() + at * item, whole.begin() + (at + 1) * item);
  });
  return bytes;
}

TEST_CASE("parts_are_cut_out_of_a_whole_and_put_back") {
  int64_t split = 0;
  for (uint32_t seed = 0; seed < 3000; ++seed) {
    INFO("seed " << seed);
    RandomParts random(seed);
    const ir::Type type = random.views.base();
    const size_t devices = 1 + static_cast<size_t>(random.below(4));
    const auto parts = random.make(type, devices);
    const Sharding sharding(type, parts);
    REQUIRE(sharding.bytes() == type.bytes());
    const auto whole = counting(type.bytes());
    for (size_t d = 0; d < devices; ++d) {
      const auto wanted = expected(type, parts[d], whole);
      REQUIRE(sharding.part_bytes(d) == static_cast<int64_t>(wanted.size()));
      std::vector<uint8_t> part(wanted.size());
      sharding.cut(d, whole.data(), part.data());
      REQUIRE(part == wanted);
      // Put back, it changes its own bytes alone.
      std::vector<uint8_t> back(whole.size(), 0xee);
      sharding.paste(d, part.data(), back.data());
      std::vector<uint8_t> again(wanted.size());
      sharding.cut(d, back.data(), again.data());
      REQUIRE(again == wanted);
      const auto changed = std::count_if(back.begin(), back.end(), [](uint8_t b) { return b != 0xee; });
      REQUIRE(changed <= static_cast<int64_t>(wanted.size()));
      split += !sharding.has_all(d);
    }
  }
  CHECK(split > 1000);
}

// Of a part, what a view shows and nothing else is put back; all parts together are all of the view.
TEST_CASE("of_parts_only_what_a_view_shows_is_put_together") {
  int64_t fewer = 0;
  for (uint32_t seed = 0; seed < 3000; ++seed) {
    INFO("seed " << seed);
    RandomParts random(seed);
    const ir::Type type = random.views.base();
    const int64_t item = ir::element_bytes(type.dtype);
    ir::Type view = type;
    int64_t offset = 0;
    for (int64_t steps = random.below(4); steps > 0; --steps) random.views.step(&view, &offset);
    const Region region = Region::of(view.sizes, view.strides, offset, item);
    std::vector<bool> shown(static_cast<size_t>(type.bytes()), false), in_region = shown;
    ir::for_each_index(view.sizes, [&](const ir::Dims& index) {
      int64_t at = offset;
      for (size_t d = 0; d < index.size(); ++d) at += index[d] * view.strides[d];
      std::fill_n(shown.begin() + at * item, item, true);
    });
    int64_t last = -1;
    for (const auto& [begin, end] : region.runs()) {
      REQUIRE((begin > last && begin < end));
      last = end;
      std::fill(in_region.begin() + begin, in_region.begin() + end, true);
    }
    for (size_t i = 0; i < shown.size(); ++i) REQUIRE((in_region[i] || !shown[i]));
    if (region.dims.size() > 1 || region.run == item) REQUIRE(in_region == shown);

    const size_t devices = 1 + static_cast<size_t>(random.below(4));
    const auto parts = random.make(type, devices);
    const Sharding sharding(type, parts);
    const auto whole = counting(type.bytes());
    for (size_t d = 0; d < devices; ++d) {
      std::vector<uint8_t> part(static_cast<size_t>(sharding.part_bytes(d)));
      sharding.cut(d, whole.data(), part.data());
      std::vector<uint8_t> is_there(whole.size(), 0), wanted(whole.size(), 0xee), back = wanted;
      const std::vector<uint8_t> ones(part.size(), 1);
      sharding.paste(d, ones.data(), is_there.data());
      int64_t count = 0;
      for (size_t i = 0; i < wanted.size(); ++i) {
        if (is_there[i] == 0 || !in_region[i]) continue;
        wanted[i] = whole[i];
        ++count;
      }
      REQUIRE(sharding.paste(d, part.data(), back.data(), region) == count);
      REQUIRE(back == wanted);
      fewer += count < sharding.part_bytes(d);
    }
  }
  CHECK(fewer > 500);
}

TEST_CASE("a_column_of_rows_on_two_devices_is_a_few_bytes") {
  const ir::Type matrix = ir::Type::contiguous(ir::DType::kF32, {6, 4});
  const Sharding rows(matrix,
                      {{Ranges{{6, 0, 3}}, Ranges{{4, 0, 4}}}, {Ranges{{6, 3, 3}}, Ranges{{4, 0, 4}}}});
  const auto whole = counting(96);
  std::vector<uint8_t> part(48), back(96, 0xee);
  rows.cut(1, whole.data(), part.data());
  CHECK(rows.paste(1, part.data(), back.data(), Region::of({6}, {4}, 2, 4)) == 12);        // column 2
  CHECK(rows.paste(1, part.data(), back.data(), Region::of({4}, {1}, 0, 4)) == 0);         // row 0
  CHECK(rows.paste(1, part.data(), back.data(), Region::of({2, 4}, {4, 1}, 8, 4)) == 16);  // rows 2 and 3
  CHECK(rows.paste(1, part.data(), back.data(), Region::of({0, 4}, {4, 1}, 8, 4)) == 0);
  CHECK(Region::of({6, 4}, {4, 1}, 0, 4).runs() == std::vector<std::pair<int64_t, int64_t>>{{0, 96}});
  CHECK(Region::of({4, 6}, {1, 4}, 0, 4).runs().size() == 1);  // transposed
  CHECK(Region::of({3, 4}, {1, 1}, 0, 4).runs() ==
        std::vector<std::pair<int64_t, int64_t>>{{0, 24}});  // windows
}

TEST_CASE("shardings_are_equal_when_they_put_the_same_bytes_on_the_same_devices") {
  const ir::Type matrix = ir::Type::contiguous(ir::DType::kF32, {6, 4});
  const ir::Type flat = ir::Type::contiguous(ir::DType::kF32, {24});
  const ir::Type bytes = ir::Type::contiguous(ir::DType::kU8, {96});
  const Sharding rows(matrix,
                      {{Ranges{{6, 0, 3}}, Ranges{{4, 0, 4}}}, {Ranges{{6, 3, 3}}, Ranges{{4, 0, 4}}}});
  CHECK(rows == Sharding(flat, {{Ranges{{24, 0, 12}}}, {Ranges{{24, 12, 12}}}}));
  CHECK(rows == Sharding(flat, {{Ranges{{2, 0, 1}, {12, 0, 12}}}, {Ranges{{2, 1, 1}, {12, 0, 12}}}}));
  CHECK(rows == Sharding(bytes, {{Ranges{{96, 0, 48}}}, {Ranges{{96, 48, 48}}}}));
  const Sharding columns(matrix,
                         {{Ranges{{6, 0, 6}}, Ranges{{4, 0, 2}}}, {Ranges{{6, 0, 6}}, Ranges{{4, 2, 2}}}});
  CHECK(rows != columns);
  CHECK(rows.hash() != columns.hash());
  CHECK(rows.hash() == Sharding(flat, {{Ranges{{24, 0, 12}}}, {Ranges{{24, 12, 12}}}}).hash());
  const ir::Type transposed{ir::DType::kF32, {4, 6}, {1, 4}};
  CHECK(rows == Sharding(transposed,
                         {{Ranges{{4, 0, 4}}, Ranges{{6, 0, 3}}}, {Ranges{{4, 0, 4}}, Ranges{{6, 3, 3}}}}));
  const Sharding whole(matrix,
                       {{Ranges{{6, 0, 6}}, Ranges{{4, 0, 4}}}, {Ranges{{6, 0, 6}}, Ranges{{4, 0, 4}}}});
  CHECK(whole == Sharding::replicated(96, 2));
  CHECK((whole.has_all(0) && whole.has_all(1) && whole.is_repeated(1) && !whole.is_repeated(0)));
  CHECK(whole != Sharding::replicated(96, 3));
  CHECK((!rows.has_all(0) && !rows.is_repeated(1)));
}

}  // namespace
}  // namespace moai::runtime
