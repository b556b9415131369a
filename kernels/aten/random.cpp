#include "kernels/aten/random.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Dispatch.h>
#include <ATen/ExpandUtils.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_sample_dirichlet.h>
#include <ATen/ops/_standard_gamma.h>
#include <ATen/ops/binomial.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/multinomial.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/poisson.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <unordered_map>
#include <vector>

#include "ir/error.h"
#include "kernels/aten/dropout.h"
#include "kernels/aten/philox.h"

namespace moai::aten {

namespace {

using torch::jit::Stack;

constexpr int64_t kGrain = 4096;

// self[n] = value(draws, index, n) for each logical index n, which is `index` in the whole. `value` may draw
// as often as it likes from its own sub-stream; the common samplers draw once.
template <typename T, typename F>
void fill_with_place(const at::Tensor& self, const Draw& draw, const F& value) {
  if (self.numel() == 0) return;
  MOAI_ASSERT(draw.part.is_everything() || draw.part.numel() == self.numel(),
              "a sampler's part has other sizes than its result: ", draw.part.numel(), " elements, ",
              self.numel());
  const at::Tensor out = self.is_contiguous() ? self : at::empty(self.sizes(), self.options());
  T* data = out.mutable_data_ptr<T>();
  at::parallel_for(0, out.numel(), kGrain, [&](int64_t begin, int64_t end) {
    Philox draws(draw.seed, draw.counter);
    draw.part.for_runs(begin, end, [&](int64_t n, int64_t index, int64_t length) {
      for (int64_t i = 0; i < length; ++i) data[n + i] = static_cast<T>(value(draws, index + i, n + i));
    });
  });
  if (!out.is_same(self)) self.copy_(out);
}

// self[n] = value(draws, index).
template <typename T, typename F>
void fill(const at::Tensor& self, const Draw& draw, const F& value) {
  fill_with_place<T>(self, draw, [&](Philox& draws, int64_t index, int64_t) { return value(draws, index); });
}

template <typename F>
void fill_floating(const at::Tensor& self, const Draw& draw, const F& value) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, self.scalar_type(), "moai_sampler",
                                  [&] { fill<scalar_t>(self, draw, value); });
}

template <typename F>
void fill_any(const at::Tensor& self, const Draw& draw, const F& value) {
  AT_DISPATCH_ALL_TYPES_AND3(at::kBool, at::kHalf, at::kBFloat16, self.scalar_type(), "moai_sampler",
                             [&] { fill<scalar_t>(self, draw, value); });
}

at::Tensor arg(Stack& stack, size_t i) { return stack[i].toTensor(); }

// For a complex tensor seen as pairs of real numbers.
Draw in_pairs(const Draw& draw) { return {draw.seed, draw.counter, draw.part.times(2)}; }

void finish(Stack& stack, at::Tensor result) {
  stack.clear();
  stack.emplace_back(std::move(result));
}

void uniform_(Stack& stack, const Draw& draw) {
  const at::Tensor self = arg(stack, 0);
  const double from = stack[1].toScalar().toDouble();
  const double to = stack[2].toScalar().toDouble();
  TORCH_CHECK(from <= to, "uniform_ expects to return a [from, to) range, but found from=", from,
              " > to=", to);
  if (self.is_complex()) {
    fill_floating(at::view_as_real(self), in_pairs(draw),
                  [=](Philox& draws, int64_t n) { return draws.uniform(n) * (to - from) + from; });
    return finish(stack, self);
  }
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, self.scalar_type(), "uniform_", [&] {
    fill<scalar_t>(self, draw, [=](Philox& draws, int64_t n) {
      const auto x = static_cast<scalar_t>(draws.uniform(n) * (to - from) + from);
      // Rounding to a narrow type may reach `to`, which is excluded.
      return static_cast<double>(x) >= to && to > from ? static_cast<scalar_t>(from) : x;
    });
  });
  finish(stack, self);
}

void normal_(Stack& stack, const Draw& draw) {
  const at::Tensor self = arg(stack, 0);
  const double mean = stack[1].toScalar().toDouble();
  const double std = stack[2].toScalar().toDouble();
  TORCH_CHECK(std >= 0.0, "normal expects std >= 0.0, but found std ", std);
  if (self.is_complex()) {
    // Real and imaginary part each have half of the variance.
    const at::Tensor parts = at::view_as_real(self);
    fill_floating(parts, in_pairs(draw),
                  [=](Philox& draws, int64_t n) { return draws.normal(n) * std * std::sqrt(0.5); });
    self.add_(mean);
    return finish(stack, self);
  }
  fill_floating(self, draw, [=](Philox& draws, int64_t n) { return draws.normal(n) * std + mean; });
  finish(stack, self);
}

void bernoulli_float(Stack& stack, const Draw& draw) {
  const at::Tensor self = arg(stack, 0);
  const double p = stack[1].toScalar().toDouble();
  TORCH_CHECK(0 <= p && p <= 1, "bernoulli_ expects p to be in [0, 1], but got p=", p);
  fill_any(self, draw, [=](Philox& draws, int64_t n) { return draws.uniform(n) < p ? 1 : 0; });
  finish(stack, self);
}

void bernoulli_into(const at::Tensor& self, const at::Tensor& p, const Draw& draw) {
  const at::Tensor chance = p.expand(self.sizes()).to(at::kDouble).contiguous();
  TORCH_CHECK(chance.numel() == 0 || (chance.min().item<double>() >= 0 && chance.max().item<double>() <= 1),
              "Expected p_in >= 0 && p_in <= 1 to be true, but got false.  (Could this error message be "
              "improved?  If so, "
              "please report an enhancement request to PyTorch.)");
  const double* chances = chance.const_data_ptr<double>();
  AT_DISPATCH_ALL_TYPES_AND3(at::kBool, at::kHalf, at::kBFloat16, self.scalar_type(), "bernoulli_", [&] {
    fill_with_place<scalar_t>(self, draw, [=](Philox& draws, int64_t index, int64_t n) {
      return draws.uniform(index) < chances[n] ? 1 : 0;
    });
  });
}

void bernoulli_tensor(Stack& stack, const Draw& draw) {
  const at::Tensor self = arg(stack, 0);
  bernoulli_into(self, arg(stack, 1), draw);
  finish(stack, self);
}

void bernoulli(Stack& stack, const Draw& draw) {
  const at::Tensor p = arg(stack, 0);
  const at::Tensor result = at::empty_like(p);
  bernoulli_into(result, p, draw);
  finish(stack, result);
}

void bernoulli_p(Stack& stack, const Draw& draw) {
  const at::Tensor result = at::empty_like(arg(stack, 0));
  Stack inner{result, stack[1], at::IValue()};
  bernoulli_float(inner, draw);
  finish(stack, result);
}

// Integers in [from, from + range); range 0 stands for all 64 bits.
void integers(const at::Tensor& self, const Draw& draw, int64_t from, uint64_t range) {
  fill_any(self, draw, [=](Philox& draws, int64_t n) {
    const uint64_t bits = draws.bits64(n);
    return static_cast<int64_t>((range == 0 ? bits : bits % range) + static_cast<uint64_t>(from));
  });
}

// The number of values that `random_()` draws from: up to the mantissa's precision.
uint64_t whole_range(at::ScalarType dtype) {
  switch (dtype) {
    case at::kBool: return 2;
    case at::kHalf: return (uint64_t{1} << 11) + 1;
    case at::kBFloat16: return (uint64_t{1} << 8) + 1;
    case at::kFloat: return (uint64_t{1} << 24) + 1;
    case at::kDouble: return (uint64_t{1} << 53) + 1;
    case at::kByte: return uint64_t{1} << 8;
    case at::kChar: return uint64_t{1} << 7;
    case at::kShort: return uint64_t{1} << 15;
    case at::kInt: return uint64_t{1} << 31;
    default: return uint64_t{1} << 63;
  }
}

void random_all(Stack& stack, const Draw& draw) {
  const at::Tensor self = arg(stack, 0);
  integers(self, draw, 0, whole_range(self.scalar_type()));
  finish(stack, self);
}

void random_to(Stack& stack, const Draw& draw) {
  const at::Tensor self = arg(stack, 0);
  const int64_t to = stack[1].toInt();
  TORCH_CHECK(to > 0, "random_ expects 'from' to be less than 'to', but got from=0 >= to=", to);
  integers(self, draw, 0, static_cast<uint64_t>(to));
  finish(stack, self);
}

void random_from(Stack& stack, const Draw& draw) {
  const at::Tensor self = arg(stack, 0);
  const int64_t from = stack[1].toInt();
  if (stack[2].isNone()) {
    integers(
        self, draw, from,
        from == std::numeric_limits<int64_t>::min() ? 0 : (uint64_t{1} << 63) - static_cast<uint64_t>(from));
  } else {
    const int64_t to = stack[2].toInt();
    TORCH_CHECK(from < to, "random_ expects 'from' to be less than 'to', but got from=", from, " >= to=", to);
    integers(self, draw, from, static_cast<uint64_t>(to) - static_cast<uint64_t>(from));
  }
  finish(stack, self);
}

void exponential_(Stack& stack, const Draw& draw) {
  const at::Tensor self = arg(stack, 0);
  const double lambda = stack[1].toScalar().toDouble();
  TORCH_CHECK(lambda > 0.0, "exponential_ expects lambda > 0.0, but found lambda=", lambda);
  fill_floating(self, draw,
                [=](Philox& draws, int64_t n) { return -std::log(draws.open_uniform(n)) / lambda; });
  finish(stack, self);
}

void geometric_(Stack& stack, const Draw& draw) {
  const at::Tensor self = arg(stack, 0);
  const double p = stack[1].toScalar().toDouble();
  TORCH_CHECK(0 < p && p < 1, "geometric_ expects p to be in (0, 1), but got p=", p);
  fill_any(self, draw, [=](Philox& draws, int64_t n) {
    return std::ceil(std::log(draws.open_uniform(n)) / std::log1p(-p));
  });
  finish(stack, self);
}

void cauchy_(Stack& stack, const Draw& draw) {
  const at::Tensor self = arg(stack, 0);
  const double median = stack[1].toScalar().toDouble();
  const double sigma = stack[2].toScalar().toDouble();
  TORCH_CHECK(sigma > 0.0, "cauchy_ expects sigma > 0.0, but found sigma=", sigma);
  fill_floating(self, draw, [=](Philox& draws, int64_t n) {
    return median + sigma * std::tan(M_PI * (draws.open_uniform(n) - 0.5));
  });
  finish(stack, self);
}

void log_normal_(Stack& stack, const Draw& draw) {
  const at::Tensor self = arg(stack, 0);
  const double mean = stack[1].toScalar().toDouble();
  const double std = stack[2].toScalar().toDouble();
  TORCH_CHECK(std > 0.0, "log_normal_ expects std > 0.0, but found std=", std);
  fill_floating(self, draw, [=](Philox& draws, int64_t n) { return std::exp(draws.normal(n) * std + mean); });
  finish(stack, self);
}

void native_dropout(Stack& stack, const Draw& draw) {
  dropout(stack, [&](const at::Tensor& kept, double p) {
    fill_any(kept, draw, [=](Philox& draws, int64_t n) { return draws.uniform(n) >= p; });
  });
}

// Sorts by independent 64-bit keys: a permutation drawn from (seed, counter) alone.
void permute(const at::Tensor& out, int64_t n, const Draw& draw) {
  MOAI_ASSERT(draw.part.is_everything(), "randperm draws no parts");
  const at::Tensor keys = at::empty({n}, at::TensorOptions(at::kCPU).dtype(at::kLong));
  integers(keys, draw, 0, 0);
  out.copy_(keys.argsort(/*stable=*/true));
}

void randperm_out(Stack& stack, const Draw& draw) {
  const at::Tensor out = stack.back().toTensor();
  permute(out, stack[0].toInt(), draw);
  finish(stack, out);
}

void normal_of(Stack& stack, const Draw& draw, const at::Tensor& mean, const at::Tensor& std) {
  const auto sizes = at::infer_size(mean.sizes(), std.sizes());
  const auto dtype = c10::promoteTypes(mean.scalar_type(), std.scalar_type());
  const at::Tensor result = at::empty(sizes, at::TensorOptions(at::kCPU).dtype(dtype));
  TORCH_CHECK(std.numel() == 0 || std.min().item<double>() >= 0, "normal expects all elements of std >= 0.0");
  Stack inner{result, 0.0, 1.0, at::IValue()};
  normal_(inner, draw);
  result.mul_(std).add_(mean);
  finish(stack, result);
}

at::Tensor like(const at::Tensor& tensor, double value) {
  return at::empty({}, tensor.options()).fill_(value);
}

void normal_tensor_float(Stack& stack, const Draw& draw) {
  const at::Tensor mean = arg(stack, 0);
  normal_of(stack, draw, mean, like(mean, stack[1].toScalar().toDouble()));
}

void normal_float_tensor(Stack& stack, const Draw& draw) {
  const at::Tensor std = arg(stack, 1);
  normal_of(stack, draw, like(std, stack[0].toScalar().toDouble()), std);
}

void normal_tensor_tensor(Stack& stack, const Draw& draw) {
  normal_of(stack, draw, arg(stack, 0), arg(stack, 1));
}

void rrelu(Stack& stack, const Draw& draw, bool in_place) {
  const at::Tensor self = arg(stack, 0);
  const at::Tensor noise = arg(stack, 1);
  const double lower = stack[2].toScalar().toDouble();
  const double upper = stack[3].toScalar().toDouble();
  const bool training = stack[4].toBool();
  at::Tensor slope = like(self, (lower + upper) / 2);
  if (training) {
    fill_floating(noise, draw,
                  [=](Philox& draws, int64_t n) { return draws.uniform(n) * (upper - lower) + lower; });
    noise.copy_(at::where(self.le(0), noise, at::ones_like(noise)));
    slope = noise;
  }
  const at::Tensor result = at::where(self.le(0), self.mul(slope), self);
  if (in_place) self.copy_(result);
  finish(stack, in_place ? self : result);
}

// Samplers that draw a varying number of times are not split: they get a generator of the CPU,
// seeded from ours.
at::Generator whole_generator(const Draw& draw) {
  MOAI_ASSERT(draw.part.is_everything(), "a sampler that draws a varying number of times draws no parts");
  return at::make_generator<at::CPUGeneratorImpl>(Philox(draw.seed, draw.counter).bits64(0));
}

constexpr auto multinomial = [](Stack& s, const Draw& draw) {
  finish(s, at::multinomial(arg(s, 0), s[1].toInt(), s[2].toBool(), whole_generator(draw)));
};
constexpr auto poisson = [](Stack& s, const Draw& draw) {
  finish(s, at::poisson(arg(s, 0), whole_generator(draw)));
};
constexpr auto binomial = [](Stack& s, const Draw& draw) {
  finish(s, at::binomial(arg(s, 0), arg(s, 1), whole_generator(draw)));
};
constexpr auto gamma = [](Stack& s, const Draw& draw) {
  finish(s, at::_standard_gamma(arg(s, 0), whole_generator(draw)));
};
constexpr auto dirichlet = [](Stack& s, const Draw& draw) {
  finish(s, at::_sample_dirichlet(arg(s, 0), whole_generator(draw)));
};
// The same numbers, into the tensor behind the arguments.
template <SamplerFn sampler>
void into_out(Stack& stack, const Draw& draw) {
  const at::Tensor out = stack.back().toTensor();
  stack.pop_back();
  sampler(stack, draw);
  TORCH_CHECK(arg(stack, 0).scalar_type() != at::kLong || out.scalar_type() == at::kLong,
              "multinomial expects Long tensor out, got: ", out.scalar_type());
  out.copy_(arg(stack, 0));
  finish(stack, out);
}

constexpr auto rrelu_new = [](Stack& s, const Draw& draw) { rrelu(s, draw, false); };
constexpr auto rrelu_in_place = [](Stack& s, const Draw& draw) { rrelu(s, draw, true); };

const std::unordered_map<std::string, SamplerFn>& table() {
  static const std::unordered_map<std::string, SamplerFn> table{
      {"aten.uniform_", uniform_},
      {"aten.normal_", normal_},
      {"aten.bernoulli_.float", bernoulli_float},
      {"aten.bernoulli_.Tensor", bernoulli_tensor},
      {"aten.bernoulli", bernoulli},
      {"aten.bernoulli.p", bernoulli_p},
      {"aten.bernoulli.out", into_out<bernoulli>},
      {"aten.random_", random_all},
      {"aten.random_.to", random_to},
      {"aten.random_.from", random_from},
      {"aten.exponential_", exponential_},
      {"aten.geometric_", geometric_},
      {"aten.cauchy_", cauchy_},
      {"aten.log_normal_", log_normal_},
      {"aten.native_dropout", native_dropout},
      {"aten.randperm.out", randperm_out},
      {"aten.randperm.generator_out", randperm_out},
      {"aten.multinomial", multinomial},
      {"aten.multinomial.out", into_out<multinomial>},
      {"aten.poisson", poisson},
      {"aten.binomial", binomial},
      {"aten._standard_gamma", gamma},
      {"aten._sample_dirichlet", dirichlet},
      {"aten.normal.Tensor_float", normal_tensor_float},
      {"aten.normal.float_Tensor", normal_float_tensor},
      {"aten.normal.Tensor_Tensor", normal_tensor_tensor},
      {"aten.normal.Tensor_float_out", into_out<normal_tensor_float>},
      {"aten.normal.float_Tensor_out", into_out<normal_float_tensor>},
      {"aten.normal.Tensor_Tensor_out", into_out<normal_tensor_tensor>},
      {"aten.rrelu_with_noise", rrelu_new},
      {"aten.rrelu_with_noise_", rrelu_in_place},
  };
  return table;
}

}  // namespace

SamplerFn find_sampler(const std::string& op) {
  const auto it = table().find(op);
  return it == table().end() ? nullptr : it->second;
}

std::vector<std::string> samplers() {
  std::vector<std::string> names;
  for (const auto& entry : table()) names.push_back(entry.first);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace moai::aten
