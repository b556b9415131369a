#include <ATen/core/dispatch/Dispatcher.h>

#include <atomic>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "record/device_ops.h"
#include "record/recorder.h"

namespace moai::record {

namespace {

// Kernels of ours that are not the boxed recorder: see device_ops.cpp.
const std::set<std::string>& own_kernels() {
  static const std::set<std::string> names{"aten::empty.memory_format",
                                           "aten::empty_strided",
                                           "aten::copy_",
                                           "aten::_to_copy",
                                           "aten::_local_scalar_dense",
                                           "aten::view",
                                           "aten::_unsafe_view",
                                           "aten::_efficientzerotensor",
                                           "aten::histc",
                                           "aten::floor_divide",
                                           "aten::_thnn_fused_lstm_cell",
                                           "aten::_thnn_fused_gru_cell",
                                           "aten::view.dtype",
                                           "aten::as_strided",
                                           "aten::unfold",
                                           "aten::_reshape_alias",
                                           "aten::view_as_real",
                                           "aten::view_as_complex",
                                           "aten::resize_",
                                           "aten::set_",
                                           "aten::set_.source_Storage",
                                           "aten::set_.source_Tensor",
                                           "aten::set_.source_Storage_storage_offset",
                                           "aten::_fused_sdp_choice",
                                           "aten::_has_compatible_shallow_copy_type",
                                           "aten::is_set_to",
                                           "aten::_pin_memory",
                                           "aten::is_pinned"};
  return names;
}

struct BoxedRecorder final : c10::OperatorKernel {
  explicit BoxedRecorder(const OpSchema* op_in) : op(op_in) {}
  void operator()(const c10::OperatorHandle&, c10::DispatchKeySet, torch::jit::Stack* stack) {
    register_new_ops();
    Recorder::current().call(*op, *stack);
  }
  const OpSchema* op;
};

std::string full_name(const c10::OperatorName& name) {
  return name.overload_name.empty() ? name.name : name.name + "." + name.overload_name;
}

// Returns a view of an argument (it aliases without writing).
bool is_view(const c10::FunctionSchema& schema) {
  for (const auto& ret : schema.returns()) {
    if (ret.alias_info() != nullptr && !ret.alias_info()->isWrite()) return true;
  }
  return false;
}

bool wanted(const c10::OperatorHandle& op) {
  const auto& name = op.operator_name();
  const bool is_aten = name.name.rfind("aten::", 0) == 0;
  if (!is_aten) {
    // Libraries' own ops; torch's internal namespaces keep their own meaning.
    for (const char* internal :
         {"prim::", "prims::", "c10d::", "c10d_functional::", "_c10d_functional::", "profiler::",
          "inductor::", "debugprims::", "rngprims::", "quantized::", "higher_order::", "dist::"}) {
      if (name.name.rfind(internal, 0) == 0) return false;
    }
  }
  if (own_kernels().count(full_name(name)) > 0 || is_view(op.schema())) return false;
  // A composite is made of ops that are recorded, but where the CPU has one kernel for it and torch its
  // derivative (silu_backward), it is one node.
  if (op.hasKernelForDispatchKey(c10::DispatchKey::CompositeImplicitAutograd) &&
      !(op.hasKernelForDispatchKey(c10::DispatchKey::CPU) &&
        op.hasKernelForDispatchKey(c10::DispatchKey::Autograd))) {
    return false;
  }
  if (op.hasKernelForDispatchKey(c10::DispatchKey::PrivateUse1)) return false;
  return true;
}

struct Registry {
  std::mutex registering;                            // taken before the dispatcher's lock; guards kernels
  std::mutex lock;                                   // taken after it; guards the others
  std::vector<c10::RegistrationHandleRAII> kernels;  // for as long as the process lives
  std::map<std::string, const OpSchema*> schemas;
  std::vector<c10::OperatorName> pending;
};

Registry& registry() {
  static auto* one = new Registry;
  return *one;
}

std::atomic<bool> has_pending{false};

const OpSchema& schema_for(const c10::OperatorHandle& op) {
  const std::lock_guard<std::mutex> guard(registry().lock);
  auto& entry = registry().schemas[full_name(op.operator_name())];
  if (entry == nullptr) entry = new OpSchema(op);
  return *entry;
}

void register_one(const c10::OperatorHandle& op) {
  if (!wanted(op)) return;
  const OpSchema& schema = schema_for(op);
  if (schema.handling == Handling::kDecompose) return;
  // Not by a torch::Library, which takes names apart again and doubles what `import torch` takes for us.
  registry().kernels.push_back(c10::Dispatcher::singleton().registerImpl(
      op.operator_name(), c10::DispatchKey::PrivateUse1,
      c10::KernelFunction::makeFromBoxedFunctor(std::make_unique<BoxedRecorder>(&schema)), std::nullopt,
      nullptr, "moai's recorder"));
}

// Told of every operator that a library defines. It is called under the dispatcher's lock, so
// the registration waits for the next op that we see.
struct Listener final : c10::OpRegistrationListener {
  void onOperatorRegistered(const c10::OperatorHandle& op) override {
    const std::lock_guard<std::mutex> guard(registry().lock);
    registry().pending.push_back(op.operator_name());
    has_pending.store(true, std::memory_order_release);
  }
  void onOperatorDeregistered(const c10::OperatorHandle&) override {}
};

}  // namespace

const OpSchema& schema_of(const char* name, const char* overload) {
  const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(name, overload);
  return schema_for(op);
}

void register_new_ops() {
  if (!has_pending.load(std::memory_order_acquire)) return;
  const std::lock_guard<std::mutex> registering(registry().registering);
  std::vector<c10::OperatorName> names;
  {
    const std::lock_guard<std::mutex> guard(registry().lock);
    names.swap(registry().pending);
    has_pending.store(false, std::memory_order_release);
  }
  for (const auto& name : names) {
    if (name.name.rfind("aten::", 0) == 0) continue;
    if (const auto op = c10::Dispatcher::singleton().findSchema(name)) register_one(*op);
  }
}

void register_ops() {
  const std::lock_guard<std::mutex> registering(registry().registering);
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const auto& name : dispatcher.getAllOpNames()) {
    if (const auto op = dispatcher.findSchema(name)) register_one(*op);
  }
  static auto* handle =
      new c10::RegistrationHandleRAII(dispatcher.addRegistrationListener(std::make_unique<Listener>()));
  (void)handle;
  // The listener was told of every operator that exists; those are done.
  const std::lock_guard<std::mutex> guard(registry().lock);
  registry().pending.clear();
  has_pending.store(false);
}

}  // namespace moai::record
