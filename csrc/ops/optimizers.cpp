#include <string>

#include "ops/rule_builder.h"

namespace moai::ops {

namespace {

// Lists hold one tensor each here: `split_lists` gives every element a node of its own. A step counter or
// a learning rate of size 1 broadcasts; a counter that is written (fused Adagrad's) is the same on every
// part.
void elementwise(RuleBuilder& b) {
  b.broadcast();
  b.combine("p", Combine::kSame);
}

constexpr const char* kForeach[] = {
    "add.Scalar",
    "add.List",
    "add.ScalarList",
    "add.Tensor",
    "sub.Scalar",
    "sub.List",
    "sub.ScalarList",
    "mul.Scalar",
    "mul.List",
    "mul.ScalarList",
    "mul.Tensor",
    "div.Scalar",
    "div.List",
    "div.ScalarList",
    "div.Tensor",
    "addcmul.Scalar",
    "addcmul.ScalarList",
    "addcmul.Tensor",
    "addcdiv.Scalar",
    "addcdiv.ScalarList",
    "addcdiv.Tensor",
    "lerp.Scalar",
    "lerp.List",
    "lerp.ScalarList",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "neg",
    "abs",
    "exp",
    "log",
    "sign",
    "maximum.List",
    "maximum.Scalar",
    "maximum.ScalarList",
    "minimum.List",
    "minimum.Scalar",
    "clamp_min.Scalar",
    "clamp_max.Scalar",
    "clamp_min.List",
    "clamp_max.List",
    "zero",
    "copy",
    "pow.Scalar",
    "pow.List",
    "pow.ScalarList",
    "pow.ScalarAndTensor",
};

}  // namespace

void add_optimizers(RuleTable& table) {
  for (const char* name : kForeach) table[std::string("_foreach_") + name] = elementwise;
  for (const char* name :
       {"_fused_adam", "_fused_adamw", "_fused_sgd", "_fused_adagrad", "_fused_adam.tensor_lr",
        "_fused_adamw.tensor_lr", "_fused_sgd.tensor_lr", "_fused_adagrad.tensor_lr"})
    table[name] = elementwise;
}

}  // namespace moai::ops
