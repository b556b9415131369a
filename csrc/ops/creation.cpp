#include "ops/rule_builder.h"

namespace moai::ops {

namespace {

// Every element alike. `sizes` is the argument with the sizes.
RuleEntry filled(int32_t sizes) {
  return [sizes](RuleBuilder& b) {
    b.line("-> d*");
    b.result_sizes_argument(sizes);
    b.flops(0);
  };
}

// Random numbers are functions of the seed and of the element's global index (see Note [Random numbers] in
// the recorder), so any split draws the same ones if it knows where it starts.
void sampled(RuleBuilder& b) {
  b.broadcast();
  b.positional("p", Position::kSampled);
}

void range(RuleBuilder& b) {
  b.line("-> d*");
  b.positional("d", Position::kOnlyPosition);
}

}  // namespace

void add_creation(RuleTable& table) {
  for (const char* name : {"full", "zeros", "ones", "empty.memory_format", "empty_strided"})
    table[name] = filled(0);
  table["scalar_tensor"] = table["moai.undefined"] = [](RuleBuilder& b) {
    b.line("-> d*");
    b.flops(0);
  };
  for (const char* name : {"arange", "arange.start", "arange.start_step", "linspace"}) table[name] = range;
  table["eye"] = table["eye.m"] = [](RuleBuilder& b) {
    b.line("-> i j");
    b.positional("i", Position::kOnlyPosition);
    b.positional("j", Position::kOnlyPosition);
  };
  for (const char* name :
       {"uniform", "normal", "bernoulli", "bernoulli.p", "bernoulli.float", "bernoulli.Tensor", "random",
        "random.to", "random.from", "exponential", "geometric", "cauchy", "log_normal", "native_dropout",
        "normal.Tensor_float", "normal.float_Tensor", "normal.Tensor_Tensor", "rrelu_with_noise"})
    table[name] = sampled;
}

}  // namespace moai::ops
