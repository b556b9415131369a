#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/ivalue.h>
#include <c10/core/GeneratorImpl.h>

#include <vector>

#include "record/op_schema.h"
#include "runtime/run.h"

namespace moai::record {

// Note [Random numbers]
// An op that draws takes (seed, counter) as two numbers of the step; the n-th element of its
// result is a function of these and of n alone (Philox), so that the same numbers come out
// whatever the split, the micro-batches or the recomputation: a node that draws a part is given where
// its elements lie in the whole (see compile/local/partition.h). A generator is two integers on the
// host: reading or setting its state, as checkpoint does, cuts nothing.
class Generator final : public c10::GeneratorImpl {
 public:
  explicit Generator(c10::DeviceIndex index = 0);

  void set_current_seed(uint64_t seed) override;
  void set_offset(uint64_t offset) override { counter_ = offset; }
  uint64_t get_offset() const override { return counter_; }
  uint64_t current_seed() const override { return seed_; }
  uint64_t seed() override;
  void set_state(const c10::TensorImpl& new_state) override;
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override;
  static c10::DeviceType device_type() { return c10::DeviceType::PrivateUse1; }

 private:
  Generator* clone_impl() const override;

  uint64_t seed_ = c10::default_rng_seed_val;
  uint64_t counter_ = 0;
};

const at::Generator& default_generator();

// Takes one tick of the generator that the call names (or of the default one) and appends its two
// numbers.
void draw(const OpSchema& op, at::ArrayRef<at::IValue> args, std::vector<runtime::Number>& numbers);

}  // namespace moai::record
