#include "record/infer.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/DefaultDtype.h>

#include <algorithm>
#include <mutex>
#include <unordered_map>

#include "record/encode.h"
#include "record/gil.h"
#include "record/stand_ins.h"

namespace moai::record {

namespace {

constexpr int64_t kMostProbedElements = 1 << 16;

struct KeyHash {
  size_t operator()(const std::vector<int64_t>& key) const {
    uint64_t h = 1469598103934665603ULL;
    for (const int64_t w : key) h = (h ^ static_cast<uint64_t>(w)) * 1099511628211ULL;
    return h;
  }
};

at::Tensor meta_like(const at::Tensor& tensor, size_t) {
  if (!is_moai(tensor)) return tensor;
  return at::empty_strided(tensor.sizes(), tensor.strides(),
                           at::TensorOptions(at::kMeta).dtype(tensor.scalar_type()));
}

int64_t total_elements(at::ArrayRef<at::IValue> args) {
  int64_t total = 0;
  for_each_tensor(args, [&](const at::Tensor& t) {
    if (t.defined()) total += t.numel();
  });
  return total;
}

ReturnSpec fresh(const at::Tensor& tensor) {
  ReturnSpec spec;
  if (!tensor.defined()) {
    spec.kind = ReturnSpec::Kind::kUndefined;
    return spec;
  }
  TORCH_CHECK_NOT_IMPLEMENTED(
      tensor.layout() == at::kStrided && !tensor.is_quantized() && !tensor.is_nested(),
      "a graph holds plain tensors");
  spec.layout = layout_of(tensor);
  return spec;
}

// Runs the call on CPU zeros so that eager's own error is thrown; returns when the CPU accepts it.
void throw_as_eager_would(const OpSchema& op, at::ArrayRef<at::IValue> args) {
  if (!fits_on_cpu(args)) return;
  auto stack = on_zeros(op, args);
  call_on(op, stack);
}

// Is it an error about dtypes, dims or sizes, which zeros and the user's values have in common?
bool speaks_of_types(const std::string& text) {
  for (const char* words :
       {"not implemented for", "Dimension out of range", "Expected dtype", "xpected scalar type",
        "to have the same dtype", "can't be cast to", "Expected tensor for argument",
        "Expected reduction dim", "expected m1 and m2", "must have the same dtype"}) {
    if (text.find(words) != std::string::npos) return true;
  }
  return false;
}

// Ops of the calling thread run on it alone, which may be one of autograd's: see Note [Threads at hand].
class OnOneThread {
 public:
  OnOneThread() : usual_(at::get_num_threads()) {
    if (usual_ != 1) at::set_num_threads(1);
  }
  ~OnOneThread() {
    if (usual_ != 1) at::set_num_threads(usual_);
  }
  OnOneThread(const OnOneThread&) = delete;
  OnOneThread& operator=(const OnOneThread&) = delete;

 private:
  const int usual_;
};

// Does the CPU have a kernel for these dtypes, and for this dim? What it says on zeros counts only where it
// speaks of dtypes: the values are not the user's.
void probe(const OpSchema& op, at::ArrayRef<at::IValue> args) {
  if (!op.is_aten || op.random || total_elements(args) > kMostProbedElements) return;
  static auto* guard_of_seen = new std::mutex;
  static auto* seen = new std::unordered_map<std::vector<int64_t>, bool, KeyHash>;
  std::vector<int64_t> key{reinterpret_cast<int64_t>(&op)};
  for_each_tensor(args, [&](const at::Tensor& t) {
    key.push_back(t.defined() ? static_cast<int64_t>(t.scalar_type()) : -1);
    key.push_back(t.defined() ? t.dim() : -1);
  });
  // A dim is good for so many dims; softmax's and sort's meta kernels take any. Few ops cast to any dtype.
  const auto& schema = op.handle.schema().arguments();
  for (size_t i = 0; i < args.size(); ++i) {
    if (args[i].isInt() && (schema[i].name() == "dim" || schema[i].name() == "dtype"))
      key.push_back(args[i].toInt());
  }
  {
    const std::lock_guard<std::mutex> guard(*guard_of_seen);
    if (!seen->emplace(key, true).second) return;
  }
  try {
    auto stack = on_zeros(op, args);
    call_on(op, stack);
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    if (!speaks_of_types(text)) return;
    const std::lock_guard<std::mutex> guard(*guard_of_seen);
    seen->erase(key);
    throw;
  } catch (const std::exception&) {
    if (is_interrupt()) throw;
    return;
  }
}

// What the call on stand-ins for its tensors says.
Inferred run_on(const OpSchema& op, at::ArrayRef<at::IValue> args, torch::jit::Stack stack) {
  Inferred inferred;
  const torch::jit::Stack metas = stack;  // the call consumes its arguments
  call_on(op, stack);
  for (size_t i = 0; i < op.args.size(); ++i) {
    if (!op.written[i]) continue;
    for_each_tensor({metas[i]}, [&](const at::Tensor& meta) {
      if (meta.defined()) inferred.resized.push_back(layout_of(meta));
    });
  }
  // A write whose layout has not changed is no resize; compared in the order of the arguments.
  size_t write = 0;
  for (size_t i = 0; i < op.args.size(); ++i) {
    if (!op.written[i]) continue;
    for_each_tensor({args[i]}, [&](const at::Tensor& tensor) {
      if (!tensor.defined()) return;
      if (layout_of(tensor) == inferred.resized[write]) inferred.resized[write] = nullptr;
      ++write;
    });
  }
  for (size_t r = 0; r < op.return_alias.size(); ++r) {
    const at::IValue& value = stack[r];
    ReturnSpec spec;
    if (op.return_alias[r] >= 0) {
      spec.kind = ReturnSpec::Kind::kArgument;
      spec.argument = op.return_alias[r];
    } else if (op.return_list[r]) {
      spec.kind = ReturnSpec::Kind::kList;
      for (const auto& element : value.toListRef()) spec.list.push_back(fresh(element.toTensor()));
    } else if (value.isNone()) {
      spec.kind = ReturnSpec::Kind::kUndefined;
    } else {
      spec = fresh(value.toTensor());
    }
    inferred.returns.push_back(std::move(spec));
  }
  return inferred;
}

Inferred run_meta(const OpSchema& op, at::ArrayRef<at::IValue> args) {
  return run_on(op, args, with_tensors(op, args, at::kMeta, meta_like));
}

// Without a meta kernel, sizes come from the CPU's on zeros: the table names the ops whose sizes
// depend on data. Only torch's own are known well enough for that.
bool lacks_meta_kernel(const OpSchema& op) {
  using K = c10::DispatchKey;
  for (const auto key : {K::Meta, K::CompositeExplicitAutograd, K::CompositeExplicitAutogradNonFunctional,
                         K::CompositeImplicitAutograd}) {
    if (op.handle.hasKernelForDispatchKey(key)) return false;
  }
  return op.is_aten;
}

Inferred ask_cpu(const OpSchema& op, at::ArrayRef<at::IValue> args) {
  try {
    return run_on(op, args, on_zeros(op, args));
  } catch (const std::exception&) {
    if (is_interrupt()) throw;
    // The values may be to blame; what it makes of the user's is found out at once.
    Inferred inferred;
    inferred.at_once = true;
    inferred.why = "has no meta kernel";
    return inferred;
  }
}

// An empty bias, which the meta kernels of sums with a product let pass.
bool has_empty_bias(const OpSchema& op, at::ArrayRef<at::IValue> args) {
  const std::string name = op.name.str();
  const bool is_sum = name.rfind("aten.addm", 0) == 0 || name.rfind("aten.addbmm", 0) == 0 ||
                      name.rfind("aten.baddbmm", 0) == 0;
  return is_sum && args[0].isTensor() && args[0].toTensor().numel() == 0;
}

// A grouped matrix multiply: torch's meta kernel speaks for bf16 on CUDA alone, though the sizes follow
// from the operands' in every dtype. A 2-d operand holds the rows (or columns) of all groups.
Inferred grouped_mm(at::ArrayRef<at::IValue> args) {
  const at::Tensor& a = args[0].toTensor();
  const at::Tensor& b = args[1].toTensor();
  std::vector<int64_t> sizes{a.size(-2), b.size(-1)};
  const bool per_group = a.dim() == b.dim();
  if (per_group) sizes.insert(sizes.begin(), a.dim() == 3 ? a.size(0) : args[2].toTensor().size(0));
  ReturnSpec spec;
  spec.layout = intern_layout(sizes, ir::contiguous_strides(sizes),
                              args[4].isNone() ? a.scalar_type() : args[4].toScalarType());
  Inferred inferred;
  inferred.returns.push_back(std::move(spec));
  return inferred;
}

// Meta kernels speak for CUDA where the CPU keeps what backward needs in another dtype.
void correct_dtypes(const OpSchema& op, at::ArrayRef<at::IValue> args, Inferred& inferred) {
  static const auto layer_norm = ir::Symbol::intern("aten.native_layer_norm");
  static const auto attention = ir::Symbol::intern("aten._scaled_dot_product_flash_attention_for_cpu");
  const auto set_dtype = [&](size_t result, at::ScalarType dtype) {
    const Layout*& layout = inferred.returns[result].layout;
    layout = intern_layout(layout->type.sizes, layout->type.strides, dtype);
  };
  if (op.name == layer_norm) {
    // Mean and deviation; in f32 only beside weights that are.
    const auto dtype = args[0].toTensor().scalar_type();
    const bool is_mixed =
        args[2].isTensor() && args[2].toTensor().defined() && args[2].toTensor().scalar_type() != dtype;
    for (const size_t r : {1, 2}) set_dtype(r, is_mixed ? at::kFloat : dtype);
  } else if (op.name == attention && args[0].toTensor().scalar_type() == at::kDouble) {
    set_dtype(1, at::kDouble);  // the logarithms of sums
  }
}

// Which order of dims a convolution of channels-last tensors returns depends on dtype and library, and
// only the CPU knows. It is asked on zeros, of two rows of the batch.
void correct_strides(const OpSchema& op, at::ArrayRef<at::IValue> args, Inferred& inferred) {
  static const auto convolution = ir::Symbol::intern("aten.convolution");
  static const auto backward = ir::Symbol::intern("aten.convolution_backward");
  if (op.name != convolution && op.name != backward) return;
  const size_t batched = op.name == convolution ? 1 : 2;  // arguments; the weight comes behind
  bool reordered = false;
  for (size_t i = 0; i <= batched; ++i)
    reordered = reordered || args[i].toTensor().suggest_memory_format() != at::MemoryFormat::Contiguous;
  if (!reordered || !fits_on_cpu(args)) return;
  auto stack = on_zeros(op, args);
  for (size_t i = 0; i < batched; ++i) {
    const at::Tensor& tensor = stack[i].toTensor();
    stack[i] = tensor.narrow(0, 0, std::min<int64_t>(tensor.size(0), 2));
  }
  const Inferred of_two = run_on(op, args, std::move(stack));
  for (size_t r = 0; r < of_two.returns.size(); ++r) {
    const Layout*& layout = inferred.returns[r].layout;
    if (layout == nullptr) continue;  // a gradient that nobody wants
    layout = intern_layout(layout->type.sizes, of_two.returns[r].layout->type.strides,
                           to_aten(layout->type.dtype));
  }
}

// Writes that meta kernels let pass and real ones may refuse: into elements that share memory, and such
// as would grow what is written. An `out=` may grow, where it is no operand too. The CPU knows, and in which
// order of strides: that of its inputs, where many meta kernels say contiguous.
void look_at_writes(const OpSchema& op, at::ArrayRef<at::IValue> args, Inferred& inferred) {
  bool doubtful = false;
  for (const Layout* layout : inferred.resized) doubtful = doubtful || layout != nullptr;
  for (size_t i = 0; i < op.args.size() && !doubtful; ++i) {
    if (!op.written[i]) continue;
    for_each_tensor({args[i]}, [&](const at::Tensor& tensor) {
      for (int64_t d = 0; tensor.defined() && d < tensor.dim(); ++d)
        doubtful = doubtful || (tensor.stride(d) == 0 && tensor.size(d) > 1);
    });
  }
  // A sampler that takes no generator would draw from the CPU's own.
  const bool takes_generator =
      std::find(op.args.begin(), op.args.end(), ArgKind::kGenerator) != op.args.end();
  if (!doubtful || (op.random && !takes_generator) || !fits_on_cpu(args)) return;
  try {
    auto on_cpu = run_on(op, args, on_zeros(op, args));
    inferred.resized = std::move(on_cpu.resized);
  } catch (const c10::Error& error) {
    // Zeros may be to blame for anything else (a matrix that is not positive-definite).
    const std::string text = error.what_without_backtrace();
    for (const char* words : {"match the broadcast shape", "must match the size of tensor",
                              "refers to a single memory location", "refer to a single memory location"}) {
      if (text.find(words) != std::string::npos) throw;
    }
  } catch (const std::exception&) {
    if (is_interrupt()) throw;
  }
}

// The words of the call without which value each tensor is.
std::vector<int64_t> type_key(const OpSchema& op, at::ArrayRef<at::IValue> args) {
  KeyWriter key;
  key.word(reinterpret_cast<int64_t>(&op));
  key.word(static_cast<int64_t>(c10::get_default_dtype_as_scalartype()));  // of integers' quotients, say
  const auto add = [&](const at::Tensor& t) {
    if (!t.defined()) {
      key.word(detail::kNoTensor);
      return;
    }
    key.word(static_cast<int64_t>(t.scalar_type()) | static_cast<int64_t>(t.dim()) << 8 |
             static_cast<int64_t>(is_moai(t)) << 16 |
             static_cast<int64_t>(t.unsafeGetTensorImpl()->is_wrapped_number()) << 17);
    key.words(t.sizes().data(), t.sizes().size());
    key.words(t.strides().data(), t.strides().size());
  };
  for (size_t i = 0; i < op.args.size(); ++i) {
    switch (op.args[i]) {
      case ArgKind::kTensor:
      case ArgKind::kTensorList:
        if (args[i].isTensor()) {
          add(args[i].toTensor());
        } else if (args[i].isList()) {
          key.word(static_cast<int64_t>(args[i].toListRef().size()));
          for (const auto& element : args[i].toListRef())
            add(element.isTensor() ? element.toTensor() : at::Tensor());
        } else {
          key.word(detail::kNoTensor);
        }
        break;
      case ArgKind::kScalar:
        // A number's kind decides dtypes; its value nothing, unless the table says so.
        if (op.static_numbers || args[i].isNone()) {
          detail::encode_static(args[i], key);
        } else {
          key.word(args[i].isDouble() ? 21 : args[i].isInt() ? 22 : args[i].isBool() ? 23 : 24);
        }
        break;
      case ArgKind::kScalarList:
      case ArgKind::kStatic: detail::encode_static(args[i], key); break;
      default: break;
    }
  }
  return std::move(key.key);
}

}  // namespace

Inferred infer(const OpSchema& op, at::ArrayRef<at::IValue> args) {
  static auto* guard_of_memo = new std::mutex;
  static auto* memo = new std::unordered_map<std::vector<int64_t>, Inferred, KeyHash>;
  const auto key = type_key(op, args);
  Inferred known;
  bool is_known = false;
  {
    const std::lock_guard<std::mutex> guard(*guard_of_memo);
    const auto it = memo->find(key);
    if (it != memo->end()) {
      if (!op.writes_any || it->second.at_once) return it->second;
      known = it->second;
      is_known = true;
    }
  }
  if (is_known) {
    look_at_writes(op, args, known);
    return known;
  }
  static const auto grouped_mm_name = ir::Symbol::intern("aten._grouped_mm");
  const OnOneThread alone;
  Inferred inferred;
  try {
    if (op.name == grouped_mm_name && args[0].toTensor().dim() >= 2 && args[1].toTensor().dim() >= 2) {
      inferred = grouped_mm(args);
    } else if (fits_on_cpu(args) && lacks_meta_kernel(op)) {
      inferred = ask_cpu(op, args);
    } else if ((op.asks_cpu || has_empty_bias(op, args)) && fits_on_cpu(args)) {
      inferred = run_on(op, args, on_zeros(op, args));
    } else {
      inferred = run_meta(op, args);
      correct_dtypes(op, args, inferred);
      correct_strides(op, args, inferred);
    }
  } catch (const c10::NotImplementedError&) {
    inferred.at_once = true;
    inferred.why = "has no meta kernel";
  } catch (const std::exception&) {
    if (is_interrupt()) throw;
    throw_as_eager_would(op, args);
    if (op.random) throw;  // at once it would draw from the CPU's generator
    // The CPU accepts what the meta kernel refuses. Not remembered: a number may have been to blame,
    // and numbers are not in the key.
    inferred.at_once = true;
    inferred.why = "its meta kernel refuses the call";
    return inferred;
  }
  if (!inferred.at_once && op.writes_any) look_at_writes(op, args, inferred);
  if (!inferred.at_once) probe(op, args);
  const std::lock_guard<std::mutex> guard(*guard_of_memo);
  (*memo)[key] = inferred;
  return inferred;
}

}  // namespace moai::record
