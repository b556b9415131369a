#include "ir/view.h"

#include <numeric>

#include "catch.h"
#include "random_views.h"

namespace moai::ir {
namespace {

// What a view shows, the slow way: the address of each element, in row-major order.
struct Elements {
  Dims sizes;
  std::vector<int64_t> addresses;
};

Elements walk(const Type& type, int64_t offset) {
  Elements elements{type.sizes, {}};
  for_each_index(type.sizes, [&](const Dims& index) {
    elements.addresses.push_back(
        std::inner_product(index.begin(), index.end(), type.strides.begin(), offset));
  });
  return elements;
}

int64_t position(const Dims& sizes, const Dims& index) {
  int64_t position = 0;
  for (size_t d = 0; d < sizes.size(); ++d) position = position * sizes[d] + index[d];
  return position;
}

// A step as its definition says, element by element.
Elements walk(const Elements& from, const ViewStep& step) {
  Elements to;
  Dims source(from.sizes.size(), 0);
  const auto take = [&](const Dims&) {
    to.addresses.push_back(from.addresses.at(position(from.sizes, source)));
  };
  switch (step.kind) {
    case ViewStep::Kind::kReshape: return {step.dims, from.addresses};
    case ViewStep::Kind::kSlice:
      to.sizes = from.sizes;
      to.sizes.at(step.dims.at(0)) = step.dims.at(2);
      for_each_index(to.sizes, [&](const Dims& index) {
        source = index;
        source[step.dims[0]] = step.dims[1] + index[step.dims[0]] * step.dims.at(3);
        REQUIRE(source[step.dims[0]] < from.sizes[step.dims[0]]);
        take(index);
      });
      return to;
    case ViewStep::Kind::kPermute:
      for (const int64_t d : step.dims) to.sizes.push_back(from.sizes.at(d));
      for_each_index(to.sizes, [&](const Dims& index) {
        for (size_t d = 0; d < index.size(); ++d) source.at(step.dims[d]) = index[d];
        take(index);
      });
      return to;
    case ViewStep::Kind::kExpand:
      to.sizes = step.dims;
      for_each_index(to.sizes, [&](const Dims& index) {
        for (size_t d = 0; d < index.size(); ++d) source[d] = from.sizes.at(d) == 1 ? 0 : index[d];
        take(index);
      });
      return to;
  }
  return to;
}

std::string str(const std::vector<ViewStep>& steps) {
  std::string text;
  for (const ViewStep& step : steps) text += (text.empty() ? "" : " ") + str(step);
  return text;
}

std::string factored(const Type& base, const Type& view, int64_t offset = 0) {
  const auto steps = factor_view(base, view, offset);
  return steps ? str(*steps) : "none";
}

// The steps show the same elements as the strides, by their definition and by apply_steps.
void check(const Type& base, const Type& view, int64_t offset) {
  INFO("base " << base.str() << ", view " << view.str() << " at " << offset);
  const auto steps = factor_view(base, view, offset);
  REQUIRE(steps);
  INFO("steps " << str(*steps));
  const Elements wanted = walk(view, offset);

  Elements found = walk(base, 0);
  for (const ViewStep& step : *steps) found = walk(found, step);
  REQUIRE(found.sizes == wanted.sizes);
  REQUIRE(found.addresses == wanted.addresses);

  Type applied;
  int64_t applied_offset = 0;
  REQUIRE(apply_steps(base, *steps, &applied, &applied_offset));
  REQUIRE(applied.sizes == view.sizes);
  REQUIRE(walk(applied, applied_offset).addresses == wanted.addresses);
}

TEST_CASE("factor_view_finds_every_chain_of_views") {
  constexpr uint32_t kChains = 10000;
  int64_t elements = 0;
  for (uint32_t seed = 0; seed < kChains; ++seed) {
    INFO("seed " << seed);
    RandomViews random(seed);
    const Type base = random.base();
    Type view = base;
    int64_t offset = 0;
    for (int64_t steps = 1 + random.below(8); steps > 0; --steps) random.step(&view, &offset);
    if (view.numel() > 5000) continue;
    elements += view.numel();
    check(base, view, offset);
  }
  REQUIRE(elements > 10 * kChains);  // the chains are not all trivial
}

// Any strides at all: either the steps show the same, or there are none because dims cross.
TEST_CASE("factor_view_is_right_or_says_no") {
  int found = 0;
  for (uint32_t seed = 0; seed < 20000; ++seed) {
    INFO("seed " << seed);
    RandomViews random(seed);
    const Type base = random.base();
    Type view{DType::kF32, {}, {}};
    for (int64_t dims = random.below(4); dims > 0; --dims) {
      view.sizes.push_back(1 + random.below(5));
      view.strides.push_back(random.below(12));
    }
    const int64_t offset = random.below(base.numel());
    if (!factor_view(base, view, offset)) continue;
    ++found;
    REQUIRE(offset + view.extent() <= base.extent());
    check(base, view, offset);
  }
  REQUIRE(found > 1000);
}

TEST_CASE("factor_view_reads_as_the_script") {
  const auto f32 = [](Dims sizes) { return Type::contiguous(DType::kF32, std::move(sizes)); };
  const auto strided = [](Dims sizes, Dims strides) {
    return Type{DType::kF32, std::move(sizes), std::move(strides)};
  };
  const Type x = f32({8, 16});
  const Type channels_last = strided({2, 3, 4, 4}, {48, 1, 12, 3});

  CHECK(factored(x, x) == "");
  CHECK(factored(x, strided({8, 16}, {16, 1}), 1) == "none");
  // x[2:4], x[:, 4:8], x[3], x[:, 3], x[::2], x[:, 1::3]
  CHECK(factored(x, strided({2, 16}, {16, 1}), 32) == "slice(0,2,2,1)");
  CHECK(factored(x, strided({8, 4}, {16, 1}), 4) == "slice(1,4,4,1)");
  CHECK(factored(x, strided({16}, {1}), 48) == "slice(0,3,1,1) reshape(16)");
  CHECK(factored(x, strided({8}, {16}), 3) == "slice(1,3,1,1) reshape(8)");
  CHECK(factored(x, strided({4, 16}, {32, 1})) == "slice(0,0,4,2)");
  CHECK(factored(x, strided({8, 5}, {16, 3}), 1) == "slice(1,1,5,3)");
  // x.t(), x.view(4, 32), x.view(-1), x[2:4].view(-1), x.view(-1)[5:40], x.view(8, 4, 4).transpose(0, 1)
  CHECK(factored(x, strided({16, 8}, {1, 16})) == "permute(1,0)");
  CHECK(factored(x, f32({4, 32})) == "reshape(4,32)");
  CHECK(factored(x, f32({128})) == "reshape(128)");
  CHECK(factored(x, f32({32}), 32) == "slice(0,2,2,1) reshape(32)");
  CHECK(factored(x, f32({35}), 5) == "reshape(128) slice(0,5,35,1)");
  CHECK(factored(x, strided({4, 8, 4}, {4, 16, 1})) == "reshape(8,4,4) permute(1,0,2)");
  // x.unsqueeze(1).expand(8, 3, 16), a scalar expanded
  CHECK(factored(x, strided({8, 3, 16}, {16, 0, 1})) == "reshape(8,1,16) expand(8,3,16)");
  CHECK(factored(f32({}), strided({2, 3}, {0, 0})) == "reshape(1,1) expand(2,3)");
  CHECK(factored(f32({1, 8}), strided({4, 8}, {0, 1})) == "expand(4,8)");
  // a batch of one keeps its dim
  CHECK(factored(f32({1, 8, 16}), strided({1, 16, 8}, {128, 1, 16})) == "permute(0,2,1)");
  // channels last: x[:, :, 1:3], x.flatten(2), x.permute(0, 2, 3, 1)
  CHECK(factored(channels_last, strided({2, 3, 2, 4}, {48, 1, 12, 3}), 12) == "slice(2,1,2,1)");
  CHECK(factored(channels_last, strided({2, 3, 16}, {48, 1, 3})) == "reshape(2,3,16)");
  CHECK(factored(channels_last, strided({2, 4, 4, 3}, {48, 12, 3, 1})) == "permute(0,2,3,1)");
  CHECK(factored(channels_last, f32({96})) == "permute(0,2,3,1) reshape(96)");
  // fused query-key-value: x.view(4, 3, 2, 8)[:, 1].transpose(1, 2) of x: [4, 48]
  CHECK(factored(f32({4, 48}), strided({4, 8, 2}, {48, 1, 8}), 16) ==
        "reshape(4,6,8) slice(1,2,2,1) permute(0,2,1)");
  // Rows of 6 where the base has rows of 4: no script's doing, but there is a way.
  check(f32({5, 4}), strided({2, 2, 2}, {12, 4, 1}), 0);
  // no elements
  CHECK(factored(x, f32({0, 16})) == "slice(0,0,0,1)");
  CHECK(factored(x, f32({3, 0})) == "slice(0,0,0,1) reshape(3,0)");
  CHECK(factored(f32({0}), f32({0, 4})) == "reshape(0,4)");
  CHECK(factored(f32({}), f32({0})) == "reshape(1) slice(0,0,0,1)");
}

TEST_CASE("factor_view_says_no_to_dims_that_cross") {
  const auto none = [](Dims base, Dims sizes, Dims strides, int64_t offset = 0) {
    return factored(Type::contiguous(DType::kF32, std::move(base)),
                    {DType::kF32, std::move(sizes), std::move(strides)}, offset);
  };
  CHECK(none({16}, {6, 4}, {2, 1}) == "none");                                // unfold
  CHECK(none({8, 8}, {2, 8}, {9, 8}) == "none");                              // crossing
  CHECK(none({8, 8}, {4, 4}, {8, 8}) == "none");                              // two dims over the same rows
  CHECK(none({11}, {4, 2}, {3, 1}) == "none");                                // rows of 3 do not fill 11
  CHECK(none({16}, {4}, {-1}, 8) == "none");                                  // backwards
  CHECK(none({16}, {4}, {1}, 13) == "none");                                  // beyond the end
  CHECK(none({16}, {4}, {1}, -1) == "none");                                  // before the start
  CHECK(none({0}, {1}, {1}) == "none");                                       // an element of nothing
  CHECK(none({4, 8, 8}, {4, 8}, {64, 9}) == "reshape(4,64) slice(1,0,8,9)");  // a diagonal is one walk
  CHECK(factored({DType::kF32, {4, 4}, {8, 1}}, {DType::kF32, {4}, {1}}) == "none");  // the base has holes
  CHECK(factored(Type::contiguous(DType::kF32, {4}), Type::contiguous(DType::kI32, {4})) == "none");
}

TEST_CASE("apply_steps_refuses_what_torch_refuses") {
  using Kind = ViewStep::Kind;
  const Type x = Type::contiguous(DType::kF32, {4, 6});
  const auto applies = [&](const std::vector<ViewStep>& steps) {
    Type out;
    int64_t offset = 0;
    return apply_steps(x, steps, &out, &offset);
  };
  CHECK(applies({{Kind::kReshape, {24}}}));
  CHECK_FALSE(applies({{Kind::kReshape, {25}}}));
  CHECK_FALSE(applies({{Kind::kPermute, {1, 0}}, {Kind::kReshape, {24}}}));  // needs a copy
  CHECK_FALSE(applies({{Kind::kSlice, {1, 0, 3, 1}}, {Kind::kReshape, {12}}}));
  CHECK(applies({{Kind::kSlice, {0, 0, 3, 1}}, {Kind::kReshape, {18}}}));
  CHECK_FALSE(applies({{Kind::kSlice, {2, 0, 1, 1}}}));
  CHECK_FALSE(applies({{Kind::kSlice, {1, 0, 7, 1}}}));
  CHECK_FALSE(applies({{Kind::kSlice, {1, 1, 3, 3}}}));
  CHECK(applies({{Kind::kSlice, {1, 1, 2, 4}}}));
  CHECK_FALSE(applies({{Kind::kPermute, {0, 0}}}));
  CHECK_FALSE(applies({{Kind::kExpand, {4, 12}}}));
}

}  // namespace
}  // namespace moai::ir
