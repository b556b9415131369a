#include <limits>

#include "ops/rule_builder.h"

namespace moai::ops {

namespace {

constexpr const char* kWindow = "windows reach over its parts' edges";
constexpr const char* kRows = "its indices count whole rows";
constexpr const char* kCounts = "its windows count the places that they have in the image";
constexpr const char* kTransposed = "windows of a transposed convolution overlap in its result";

// Where an op has stride, padding and dilation among its arguments; kNoArg: it has none.
struct WindowArgs {
  size_t stride, padding, dilation;
};
constexpr size_t kNoArg = static_cast<size_t>(-1);

// By dim of space, where a list of one number is for all.
int64_t at(const std::vector<int64_t>& list, size_t d, int64_t fallback) {
  return list.empty() ? fallback : list[d < list.size() ? d : 0];
}

// Dim `d` of space in `z` sees the same dim of `y` through a window of these sizes, but where either has a
// single place.
void slide(RuleBuilder& b, size_t d, const TensorFactors& z, const TensorFactors& y, const ir::Dims& sizes,
           const WindowArgs& args, double outside = 0) {
  const auto& seers = z[z.size() - sizes.size() + d];
  const auto& seen = y[y.size() - sizes.size() + d];
  if (seers.empty() || seen.empty()) return;
  Window window;
  window.over = seen[0];
  window.size = sizes[d];
  window.stride = at(b.integers(args.stride), d, sizes[d]);
  window.padding = at(b.integers(args.padding), d, 0);
  window.dilation = at(b.integers(args.dilation), d, 1);
  window.padding_arg = static_cast<int32_t>(args.padding);
  window.dim = static_cast<int32_t>(d);
  window.dims = static_cast<int32_t>(sizes.size());
  window.outside = outside;
  b.window(seers[0], window);
}

// Multiply-adds: each element of the side that is `channels` wide meets a window of each of its group's
// filters.
void count(RuleBuilder& b, const ir::Dims& out, const ir::Dims& weight, double times) {
  double multiplies = 1;
  for (const auto size : out) multiplies *= static_cast<double>(size);
  for (size_t d = 1; d < weight.size(); ++d) multiplies *= static_cast<double>(weight[d]);
  b.flops(2 * times * multiplies);
}

// Kernels that multiply matrices unfold the windows of one sample and group first (im2col; Chellapilla et al.
// 2006): `windows` says how many, `channels` what each has of every place in the filter.
void unfold(RuleBuilder& b, const char* windows, const char* channels, ir::DType dtype) {
  if (b.factors("k").empty()) return;  // a product as it is
  std::vector<int32_t> factors = b.factors("k");
  for (const char* name : {windows, channels}) {
    for (const auto f : b.factors(name)) factors.push_back(f);
  }
  b.scratch(static_cast<double>(ir::element_bytes(dtype)), std::move(factors));
}

// The same of a convolution, whose weight ends with the window's sizes.
void slide_filters(RuleBuilder& b, bool transposed, const TensorFactors& z, const TensorFactors& y,
                   const ir::Dims& weight, const WindowArgs& args) {
  for (const char* name : {"y", "z"}) b.whole(name, transposed ? kTransposed : kWindow);
  b.whole("k");
  const ir::Dims sizes(weight.begin() + 2, weight.end());
  for (size_t d = 0; d < sizes.size() && !transposed; ++d) slide(b, d, z, y, sizes, args);
}

// input, weight, bias, stride, padding, dilation, transposed, output_padding, groups.
// A transposed weight is (channels in, channels out of a group).
void convolution(RuleBuilder& b) {
  const bool transposed = b.flag(6);
  b.size("g", b.integer(8, 1));
  b.line(transposed ? "n (g c) y*, (g c) o k*, (g o) -> n (g o) z*"
                    : "n (g c) y*, (g o) c k*, (g o) -> n (g o) z*",
         {0, 1, 2});
  b.additive(b.operand(2));
  b.size_argument(8, {"g"});
  slide_filters(b, transposed, b.result_factors(0), b.operand_factors(b.operand(0)), b.sizes(b.operand(1)),
                {3, 4, 5});
  if (b.operand(2) == ir::kNone) b.linear({0});
  count(b, transposed ? b.sizes(0) : b.result_sizes(0), b.sizes(1), 1);
  unfold(b, transposed ? "y" : "z", transposed ? "o" : "c", b.dtype(0));
}

// grad, input, weight, bias sizes, stride, padding, dilation, transposed, output_padding, groups, mask.
void convolution_backward(RuleBuilder& b) {
  const bool transposed = b.flag(7);
  b.size("g", b.integer(9, 1));
  const std::string weight = transposed ? "(g c) o k*" : "(g o) c k*";
  const auto& args = b.node().args;
  const auto* mask = args.size() > 10 ? std::get_if<std::vector<bool>>(&args[10]) : nullptr;
  if (mask != nullptr && mask->size() != 3) b.contradiction("its mask is not of three gradients");
  std::string line = "n (g o) z*, n (g c) y*, " + weight + " -> ";
  const std::string results[] = {"n (g c) y*", weight, "(g o)"};
  std::vector<int32_t> at(3, ir::kNone);
  int32_t next = 0;
  for (size_t i = 0; i < 3; ++i) {
    if (mask != nullptr && !(*mask)[i]) continue;
    line += (next > 0 ? ", " : "") + results[i];
    at[i] = next++;
  }
  b.line(line, {0, 1, 2});
  if (at[2] != ir::kNone) b.combine("c", Combine::kSame, at[2]);
  b.size_argument(9, {"g"});
  if (!b.integers(3).empty()) b.size_element_argument(3, 0, {"g", "o"});
  slide_filters(b, transposed, b.operand_factors(b.operand(0)), b.operand_factors(b.operand(1)),
                b.sizes(b.operand(2)), {4, 5, 6});
  b.linear({0});
  const double products = (at[0] != ir::kNone) + (at[1] != ir::kNone);
  count(b, transposed ? b.sizes(1) : b.sizes(0), b.sizes(2), products);
  unfold(b, transposed ? "y" : "z", transposed ? "o" : "c", b.dtype(0));
}

bool is_floating(ir::DType dtype) {
  return dtype == ir::DType::kF16 || dtype == ir::DType::kBF16 || dtype == ir::DType::kF32 ||
         dtype == ir::DType::kF64;
}

// By dim of space.
ir::Dims pool_sizes(const RuleBuilder& b, size_t arg) {
  return {at(b.integers(arg), 0, 1), at(b.integers(arg), 1, 1)};
}

// Indices of what was largest count the places of whole rows, so rows alone are split; places of a single one
// where there is no other. `at` and `to`: the indices, as an operand or a result.
void slide_largest(RuleBuilder& b, const TensorFactors& z, const TensorFactors& y, int32_t input,
                   size_t sizes, int32_t at, int32_t to) {
  for (const char* name : {"y0", "y1", "z0", "z1"}) b.whole(name, kRows);
  if (!is_floating(b.dtype(input))) return;
  const size_t d = y[y.size() - 2].empty() ? 1 : 0;
  slide(b, d, z, y, pool_sizes(b, sizes), {sizes + 1, sizes + 2, sizes + 3},
        -std::numeric_limits<double>::infinity());
  b.positional(d == 0 ? "z0" : "z1", Position::kSeenIndex, at, to);
}

// input, window, stride, padding, dilation, whether sizes are rounded up.
void max_pool(RuleBuilder& b) {
  b.line("b* y0 y1 -> b* z0 z1, b* z0 z1", {0});
  slide_largest(b, b.result_factors(0), b.operand_factors(0), 0, 1, ir::kNone, 1);
}

// grad, input, window, stride, padding, dilation, whether sizes are rounded up, indices.
void max_pool_backward(RuleBuilder& b) {
  b.line("b* z0 z1, b* y0 y1, b* z0 z1 -> b* y0 y1", {0, 1, 7});
  slide_largest(b, b.operand_factors(0), b.operand_factors(1), 1, 2, b.operand(7), ir::kNone);
}

// Where windows divide by how many places they have in the image, or in it and its padding, a part must not
// take the one for the other.
void slide_means(RuleBuilder& b, const TensorFactors& z, const TensorFactors& y, const ir::Dims& z_sizes,
                 const ir::Dims& y_sizes, size_t sizes) {
  const bool counts_padding = b.flag(sizes + 4, true), has_divisor = b.integer(sizes + 5) != 0;
  const ir::Dims window = pool_sizes(b, sizes);
  for (const char* name : {"y0", "y1", "z0", "z1"}) b.whole(name, kCounts);
  for (size_t d = 0; d < 2; ++d) {
    const int64_t places = z_sizes[z_sizes.size() - 2 + d], seen = y_sizes[y_sizes.size() - 2 + d];
    const int64_t padding = at(b.integers(sizes + 2), d, 0);
    const int64_t stride = at(b.integers(sizes + 1), d, window[d]);
    const bool overruns = (places - 1) * stride + window[d] > seen + 2 * padding;
    if (has_divisor || (!overruns && (counts_padding || padding == 0)))
      slide(b, d, z, y, window, {sizes + 1, sizes + 2, kNoArg});
  }
}

// input, window, stride, padding, whether sizes are rounded up, whether padding counts, divisor.
void avg_pool(RuleBuilder& b) {
  b.line("b* y0 y1 -> b* z0 z1", {0});
  slide_means(b, b.result_factors(0), b.operand_factors(0), b.result_sizes(0), b.sizes(0), 1);
}

// grad, input, then as above.
void avg_pool_backward(RuleBuilder& b) {
  b.line("b* z0 z1, b* y0 y1 -> b* y0 y1", {0, 1});
  slide_means(b, b.operand_factors(0), b.operand_factors(1), b.sizes(0), b.sizes(1), 2);
}

// Batch and channels pass through; space lies whole. Every tensor is (…, space), of `space` dims.
RuleEntry over_space(size_t space) {
  return [space](RuleBuilder& b) {
    const auto term = [&](size_t rank) {
      std::string text;
      for (size_t d = 0; d < rank; ++d) text += d + space < rank ? "b" + std::to_string(d) + " " : ". ";
      return text;
    };
    std::string line;
    for (size_t o = 0; o < b.node().operands.size(); ++o)
      line += (o > 0 ? ", " : "") + term(b.sizes(static_cast<int32_t>(o)).size());
    line += "-> ";
    for (size_t r = 0; r < b.result_count(); ++r)
      line += (r > 0 ? ", " : "") + term(b.result_sizes(r).size());
    b.line(line);
    b.why_whole(kWindow);
  };
}

}  // namespace

void add_convolutions(RuleTable& table) {
  table["convolution"] = table["convolution_overrideable"] = convolution;
  table["convolution_backward"] = table["convolution_backward_overrideable"] = convolution_backward;
  table["max_pool2d_with_indices"] = max_pool;
  table["max_pool2d_with_indices_backward"] = max_pool_backward;
  table["avg_pool2d"] = avg_pool;
  table["avg_pool2d_backward"] = avg_pool_backward;
  for (const char* name : {"_adaptive_avg_pool2d", "_adaptive_avg_pool2d_backward", "adaptive_max_pool2d"})
    table[name] = over_space(2);
  for (const std::string name : {"upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d"}) {
    table[name] = over_space(2);
    table[name + "_backward"] = [](RuleBuilder& b) {
      over_space(2)(b);
      b.result_sizes_argument(2);
    };
  }
}

}  // namespace moai::ops
