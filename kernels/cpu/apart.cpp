#include "kernels/cpu/apart.h"

#include "kernels/aten/random.h"
#include "kernels/aten/stand_in.h"
#include "kernels/cpu/compile_text.h"
#include "kernels/cpu/machine.h"

namespace moai::cpu {

namespace {

class ApartMachine final : public aten::Machine {
 public:
  explicit ApartMachine(Fuses fuses) : fuses_(fuses) {}

  c10::Device device() const override { return plain_->device(); }
  c10::DispatchKey dispatch_key() const override { return plain_->dispatch_key(); }
  void attach() override { plain_->attach(); }
  aten::Kernel kernel(const std::string& op) const override { return aten::stand_in(op); }
  aten::Sampler sampler(const std::string& op) const override {
    const aten::SamplerFn sampler = aten::find_sampler(op);
    return sampler == nullptr ? aten::Sampler() : aten::by_way_of_host(sampler, device());
  }
  std::optional<compile::Target> fuses() const override {
    return fuses_ == Fuses::kYes ? std::optional(compile::Target::kCpp) : std::nullopt;
  }
  std::shared_ptr<aten::CompiledKernel> compile(const std::string& text) override {
    return compile_text(text);
  }
  void finish() override {}

 private:
  const Fuses fuses_;
  const std::unique_ptr<aten::Machine> plain_ = make_machine(1);
};

class ApartMemory final : public runtime::MemorySource {
 public:
  void* take(int64_t bytes) override { return host_->take(bytes); }
  void give_back(void* data, int64_t bytes) override { host_->give_back(data, bytes); }
  bool is_host() const override { return false; }
  void to_host(void* host, const void* device, int64_t bytes) override {
    host_->to_host(host, device, bytes);
  }
  void to_device(void* device, const void* host, int64_t bytes) override {
    host_->to_device(device, host, bytes);
  }

 private:
  const std::shared_ptr<runtime::MemorySource> host_ = runtime::host_memory();
};

}  // namespace

std::unique_ptr<aten::Machine> make_apart_machine(Fuses fuses) {
  return std::make_unique<ApartMachine>(fuses);
}
std::shared_ptr<runtime::MemorySource> make_apart_memory() { return std::make_shared<ApartMemory>(); }

}  // namespace moai::cpu
