#include "record/generator.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cstring>

namespace moai::record {

namespace {
constexpr int64_t kStateBytes = 2 * sizeof(uint64_t);
}  // namespace

Generator::Generator(c10::DeviceIndex index)
    : c10::GeneratorImpl(c10::Device(c10::DeviceType::PrivateUse1, index),
                         c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)) {}

void Generator::set_current_seed(uint64_t seed) {
  seed_ = seed;
  counter_ = 0;
}

uint64_t Generator::seed() {
  set_current_seed(c10::detail::getNonDeterministicRandom());
  return seed_;
}

void Generator::set_state(const c10::TensorImpl& new_state) {
  TORCH_CHECK(new_state.numel() == kStateBytes && new_state.dtype() == caffe2::TypeMeta::Make<uint8_t>() &&
                  new_state.device().is_cpu(),
              "RNG state of a moai generator must be a CPU ByteTensor of ", kStateBytes, " bytes, got ",
              new_state.numel(), " elements of ", new_state.dtype(), " on ", new_state.device());
  uint64_t words[2];
  std::memcpy(words, new_state.data(), sizeof words);
  seed_ = words[0];
  counter_ = words[1];
}

c10::intrusive_ptr<c10::TensorImpl> Generator::get_state() const {
  at::Tensor state = at::empty({kStateBytes}, at::TensorOptions(at::kCPU).dtype(at::kByte));
  const uint64_t words[2] = {seed_, counter_};
  std::memcpy(state.mutable_data_ptr(), words, sizeof words);
  return state.getIntrusivePtr();
}

Generator* Generator::clone_impl() const {
  auto* copy = new Generator(device().index());
  copy->seed_ = seed_;
  copy->counter_ = counter_;
  return copy;
}

const at::Generator& default_generator() {
  static auto* one = new at::Generator(at::make_generator<Generator>(c10::DeviceIndex{0}));
  return *one;
}

void draw(const OpSchema& op, at::ArrayRef<at::IValue> args, std::vector<runtime::Number>& numbers) {
  auto* generator = default_generator().get<Generator>();
  for (size_t i = 0; i < op.args.size(); ++i) {
    if (op.args[i] != ArgKind::kGenerator || args[i].isNone()) continue;
    const at::Generator given = args[i].toGenerator();
    TORCH_CHECK(given.device().is_privateuseone(), "Expected a 'moai' device type for generator but found '",
                given.device().type(), "'");
    generator = given.get<Generator>();
  }
  const std::lock_guard<std::mutex> guard(generator->mutex_);
  runtime::Number seed;
  seed.i = static_cast<int64_t>(generator->current_seed());
  runtime::Number counter;
  counter.i = static_cast<int64_t>(generator->get_offset());
  generator->set_offset(generator->get_offset() + 1);
  numbers.push_back(seed);
  numbers.push_back(counter);
}

}  // namespace moai::record
