#include "record/op_schema.h"

#include <algorithm>
#include <string>
#include <unordered_map>

namespace moai::record {

namespace {

constexpr auto kDataDependent = "the result's size depends on data";
constexpr auto kReadsHost = "returns a value to the host";
constexpr auto kInPlaceView = "changes the tensor, not its storage";
constexpr auto kComposite = "torch's composite serves";
constexpr auto kSparse =
    "returns a sparse tensor, and moai holds strided tensors only; call it on a CPU tensor, or stay dense";
constexpr auto kQuantized =
    "returns a quantized tensor, and moai holds strided tensors only; call it on a CPU tensor";
constexpr auto kNested =
    "returns a nested tensor, and moai holds strided tensors only; pad it (torch.nn.utils.rnn.pad_sequence), "
    "or "
    "make it on the CPU";
constexpr auto kMkldnn =
    "returns a tensor of oneDNN's own layout, and moai holds strided tensors only; leave it as it is";
constexpr auto kUnknownSampler =
    "draws random numbers that would depend on how the work is split, and no sampler of ours draws them; "
    "call "
    "it on a CPU tensor and move the result";

}  // namespace

const std::vector<Correction>& corrections() {
  using H = Handling;
  static const auto* table = new std::vector<Correction>{
      // Sizes that depend on data.
      {"nonzero", H::kAtOnce, {}, false, false, kDataDependent},
      {"nonzero.out", H::kAtOnce, {}, false, false, kDataDependent},
      {"masked_select.*", H::kAtOnce, {}, false, false, kDataDependent},
      {"unique_dim.*", H::kAtOnce, {}, false, false, kDataDependent},
      {"unique_consecutive.*", H::kAtOnce, {}, false, false, kDataDependent},
      {"unique_dim_consecutive.*", H::kAtOnce, {}, false, false, kDataDependent},
      {"_unique.*", H::kAtOnce, {}, false, false, kDataDependent},
      {"_unique2.*", H::kAtOnce, {}, false, false, kDataDependent},
      {"bincount.*", H::kAtOnce, {}, false, false, kDataDependent},
      {"repeat_interleave.Tensor", H::kAtOnce, {}, false, false, kDataDependent},
      {"repeat_interleave.Tensor_out", H::kAtOnce, {}, false, false, kDataDependent},
      {"_ctc_loss.Tensor", H::kAtOnce, {}, false, false, kDataDependent},
      {"_ctc_loss.Tensor_out", H::kAtOnce, {}, false, false, kDataDependent},
      {"linalg_lstsq", H::kAtOnce, {}, false, false, "the residuals' size depends on the rank"},
      {"linalg_lstsq.out", H::kAtOnce, {}, false, false, "the residuals' size depends on the rank"},
      {"_padded_dense_to_jagged_forward", H::kAtOnce, {}, false, false, kDataDependent},
      {"equal", H::kAtOnce, {}, false, false, kReadsHost},
      // What is not strided.
      {"_to_sparse.*", H::kRefuse, {}, false, false, kSparse},
      {"_to_sparse_csr.*", H::kRefuse, {}, false, false, kSparse},
      {"_to_sparse_csc.*", H::kRefuse, {}, false, false, kSparse},
      {"_to_sparse_bsr.*", H::kRefuse, {}, false, false, kSparse},
      {"_to_sparse_bsc.*", H::kRefuse, {}, false, false, kSparse},
      {"to_mkldnn.*", H::kRefuse, {}, false, false, kMkldnn},
      {"_nested_tensor_from_tensor_list.*", H::kRefuse, {}, false, false, kNested},
      {"_nested_tensor_from_mask.*", H::kRefuse, {}, false, false, kNested},
      {"_nested_from_padded.*", H::kRefuse, {}, false, false, kNested},
      {"quantize_per_tensor.*", H::kRefuse, {}, false, false, kQuantized},
      {"quantize_per_tensor_dynamic.*", H::kRefuse, {}, false, false, kQuantized},
      {"quantize_per_channel.*", H::kRefuse, {}, false, false, kQuantized},
      // Writes that the schema does not announce.
      {"native_batch_norm", H::kRecord, {3, 4}, false, false, "writes running_mean and running_var", true},
      {"_native_batch_norm_legit", H::kRecord, {3, 4}, false, false, "in its schema's alias set only", true},
      {"native_batch_norm.out",
       H::kRecord,
       {3, 4},
       false,
       false,
       "writes running_mean and running_var",
       true},
      {"_native_batch_norm_legit.out",
       H::kRecord,
       {3, 4},
       false,
       false,
       "in its schema's alias set only",
       true},
      {"_batch_norm_with_update", H::kRecord, {}, false, false, "", true},
      {"multilabel_margin_loss_forward", H::kRecord, {}, false, false, "", true},
      // Their meta kernels do not check what they are given.
      {"fill_.Tensor", H::kRecord, {}, false, false, "", true},
      {"index_put_", H::kRecord, {}, false, false, "", true},
      {"index_add_", H::kRecord, {}, false, false, "", true},
      {"index_add", H::kRecord, {}, false, false, "", true},
      {"index_copy_", H::kRecord, {}, false, false, "", true},
      {"index_copy", H::kRecord, {}, false, false, "", true},
      {"masked_scatter_", H::kRecord, {}, false, false, "", true},
      {"masked_scatter", H::kRecord, {}, false, false, "", true},
      {"_embedding_bag", H::kRecord, {}, false, false, "", true},
      {"_embedding_bag_forward_only", H::kRecord, {}, false, false, "", true},
      {"cudnn_batch_norm", H::kRecord, {3, 4}, false, false, "writes running_mean and running_var"},
      {"miopen_batch_norm", H::kRecord, {3, 4}, false, false, "writes running_mean and running_var"},
      {"batch_norm_gather_stats", H::kRecord, {3, 4}, false, false, "writes running_mean and running_var"},
      {"batch_norm_gather_stats_with_counts", H::kRecord, {3, 4}, false, false, "writes running statistics"},
      // Numbers that decide sizes or kernels.
      {"pow.Tensor_Scalar", H::kRecord, {}, true, false, "the exponent chooses the kernel"},
      {"pow_.Scalar", H::kRecord, {}, true, false, "the exponent chooses the kernel"},
      {"linalg_vector_norm", H::kRecord, {}, true, false, "the order says how parts combine"},
      {"norm.*", H::kRecord, {}, true, false, "the order says how parts combine"},
      {"_foreach_norm.Scalar", H::kRecord, {}, true, false, "the order says how parts combine"},
      {"arange.*", H::kRecord, {}, true, false, "the ends decide the size"},
      {"range.*", H::kRecord, {}, true, false, "the ends decide the size"},
      {"histc", H::kRecord, {}, true, false, "the ends say what is counted"},
      {"floor_divide.Scalar", H::kRecord, {}, true, false, "see device_ops.cpp"},
      {"linspace.*", H::kRecord, {}, true, false, "part of a constant"},
      {"logspace.*", H::kRecord, {}, true, false, "part of a constant"},
      // Samplers. kernels/aten/random.cpp has one entry for each.
      {"uniform_", H::kRecord, {}, false, true, ""},
      {"normal_", H::kRecord, {}, false, true, ""},
      {"bernoulli_.float", H::kRecord, {}, false, true, ""},
      {"bernoulli_.Tensor", H::kRecord, {}, false, true, ""},
      {"bernoulli", H::kRecord, {}, false, true, ""},
      {"bernoulli.p", H::kRecord, {}, false, true, ""},
      {"bernoulli.out", H::kRecord, {}, false, true, ""},
      {"random_", H::kRecord, {}, false, true, ""},
      {"random_.to", H::kRecord, {}, false, true, ""},
      {"random_.from", H::kRecord, {}, false, true, ""},
      {"exponential_", H::kRecord, {}, false, true, ""},
      {"geometric_", H::kRecord, {}, false, true, ""},
      {"cauchy_", H::kRecord, {}, false, true, ""},
      {"log_normal_", H::kRecord, {}, false, true, ""},
      {"native_dropout", H::kRecord, {}, false, true, ""},
      {"randperm", H::kDecompose, {}, false, false, kComposite},
      {"randperm.generator", H::kDecompose, {}, false, false, kComposite},
      {"randperm.out", H::kRecord, {}, false, true, ""},
      {"randperm.generator_out", H::kRecord, {}, false, true, ""},
      {"multinomial", H::kRecord, {}, false, true, ""},
      {"multinomial.out", H::kRecord, {}, false, true, ""},
      {"poisson", H::kRecord, {}, false, true, ""},
      {"binomial", H::kRecord, {}, false, true, ""},
      {"_standard_gamma", H::kRecord, {}, false, true, ""},
      {"_sample_dirichlet", H::kRecord, {}, false, true, ""},
      {"normal.Tensor_float", H::kRecord, {}, false, true, ""},
      {"normal.float_Tensor", H::kRecord, {}, false, true, ""},
      {"normal.Tensor_Tensor", H::kRecord, {}, false, true, ""},
      {"normal.Tensor_float_out", H::kRecord, {}, false, true, ""},
      {"normal.float_Tensor_out", H::kRecord, {}, false, true, ""},
      {"normal.Tensor_Tensor_out", H::kRecord, {}, false, true, ""},
      {"rrelu_with_noise", H::kRecord, {1}, false, true, "writes its noise"},
      {"rrelu_with_noise_", H::kRecord, {1}, false, true, "writes its noise"},
      // Composites over the samplers and over empty, which must not be replayed whole.
      {"rand.*", H::kDecompose, {}, false, false, kComposite},
      {"randn.*", H::kDecompose, {}, false, false, kComposite},
      {"randint.*", H::kDecompose, {}, false, false, kComposite},
      {"rand_like.*", H::kDecompose, {}, false, false, kComposite},
      {"randn_like.*", H::kDecompose, {}, false, false, kComposite},
      {"randint_like.*", H::kDecompose, {}, false, false, kComposite},
      {"normal.float_float", H::kDecompose, {}, false, false, kComposite},
      {"normal.float_float_out", H::kDecompose, {}, false, false, kComposite},
      {"normal_functional", H::kDecompose, {}, false, false, kComposite},
      {"bernoulli.Tensor", H::kDecompose, {}, false, false, kComposite},
      {"empty_like.*", H::kDecompose, {}, false, false, kComposite},
      {"new_empty.*", H::kDecompose, {}, false, false, kComposite},
      {"new_empty_strided.*", H::kDecompose, {}, false, false, kComposite},
      {"new_zeros.*", H::kDecompose, {}, false, false, kComposite},
      {"new_ones.*", H::kDecompose, {}, false, false, kComposite},
      {"new_full.*", H::kDecompose, {}, false, false, kComposite},
      {"zeros_like.*", H::kDecompose, {}, false, false, kComposite},
      {"ones_like.*", H::kDecompose, {}, false, false, kComposite},
      {"full_like.*", H::kDecompose, {}, false, false, kComposite},
      {"empty_permuted.*", H::kDecompose, {}, false, false, kComposite},
      {"unsafe_split.*", H::kDecompose, {}, false, false, "views, but for autograd"},
      {"unsafe_split_with_sizes.*", H::kDecompose, {}, false, false, "views, but for autograd"},
      {"squeeze_.*", H::kDecompose, {}, false, false, kInPlaceView},
      {"unsqueeze_.*", H::kDecompose, {}, false, false, kInPlaceView},
      {"t_.*", H::kDecompose, {}, false, false, kInPlaceView},
      {"transpose_.*", H::kDecompose, {}, false, false, kInPlaceView},
      // Their results or what they read depend on the memory between their operand's elements.
      {"as_strided_copy", H::kDecompose, {}, false, false, kComposite},
      {"as_strided_scatter", H::kDecompose, {}, false, false, kComposite},
      {"slice_scatter", H::kDecompose, {}, false, false, kComposite},
      {"select_scatter", H::kDecompose, {}, false, false, kComposite},
      {"diagonal_scatter", H::kDecompose, {}, false, false, kComposite},
      {"as_strided_.*", H::kDecompose, {}, false, false, kInPlaceView},
      {"detach_.*", H::kDecompose, {}, false, false, kInPlaceView},
      {"lift_fresh.*", H::kDecompose, {}, false, false, kComposite},
      {"lift.*", H::kDecompose, {}, false, false, kComposite},
      {"detach.*", H::kDecompose, {}, false, false, kComposite},
      {"alias.*", H::kDecompose, {}, false, false, kComposite},
      {"_fused_adam_.tensor_lr", H::kRecord, {}, false, false, ""},
      {"_copy_from", H::kDecompose, {}, false, false, "copy_ serves"},
      {"_copy_from_and_resize", H::kDecompose, {}, false, false, "copy_ serves"},
      {"set_data", H::kDecompose, {}, false, false, "autograd's own"},
      {"data", H::kDecompose, {}, false, false, "autograd's own"},
      {"_thnn_fused_lstm_cell.*", H::kDecompose, {}, false, false, "CUDA only"},
      {"_thnn_fused_gru_cell.*", H::kDecompose, {}, false, false, "CUDA only"},
      {"record_stream", H::kDecompose, {}, false, false, "one stream"},
      {"_has_compatible_shallow_copy_type", H::kDecompose, {}, false, false, "ours, see device.cpp"},
  };
  return *table;
}

namespace {

// The exact row, or that of all overloads. Asked for each operator there is at `import torch`: no search.
const Correction* correction_of(const std::string& name, const std::string& overload) {
  static const auto* rows = [] {
    auto* by_name = new std::unordered_map<std::string, const Correction*>;
    for (const auto& row : corrections()) by_name->emplace(row.op, &row);
    return by_name;
  }();
  auto found = rows->find(overload.empty() ? name : name + "." + overload);
  if (found == rows->end()) found = rows->find(name + ".*");
  return found == rows->end() ? nullptr : found->second;
}

ArgKind kind_of(const c10::Argument& arg) {
  const auto& real = *arg.real_type();
  const auto type = [&]() -> const c10::Type& {
    if (real.kind() == c10::TypeKind::OptionalType)
      return *real.castRaw<c10::OptionalType>()->getElementType();
    return real;
  };
  const c10::Type& inner = type();
  switch (inner.kind()) {
    case c10::TypeKind::TensorType: return ArgKind::kTensor;
    case c10::TypeKind::NumberType:
    case c10::TypeKind::FloatType: return ArgKind::kScalar;
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType:
    case c10::TypeKind::BoolType:
    case c10::TypeKind::SymBoolType:
    case c10::TypeKind::StringType:
    case c10::TypeKind::ScalarTypeType:
    case c10::TypeKind::LayoutType:
    case c10::TypeKind::MemoryFormatType: return ArgKind::kStatic;
    case c10::TypeKind::DeviceObjType: return ArgKind::kDevice;
    case c10::TypeKind::GeneratorType: return ArgKind::kGenerator;
    case c10::TypeKind::ListType: {
      const c10::Type& element = *inner.castRaw<c10::ListType>()->getElementType();
      switch (element.kind()) {
        case c10::TypeKind::TensorType: return ArgKind::kTensorList;
        case c10::TypeKind::OptionalType: {
          const auto& of = *element.castRaw<c10::OptionalType>()->getElementType();
          return of.kind() == c10::TypeKind::TensorType ? ArgKind::kTensorList : ArgKind::kOther;
        }
        case c10::TypeKind::NumberType: return ArgKind::kScalarList;
        case c10::TypeKind::IntType:
        case c10::TypeKind::SymIntType:
        case c10::TypeKind::BoolType:
        case c10::TypeKind::FloatType: return ArgKind::kStatic;
        default: return ArgKind::kOther;
      }
    }
    default: return ArgKind::kOther;
  }
}

// Int and int[] are dims and flags; sizes are SymInt.
bool holds_sizes(const c10::Argument& arg) {
  const auto& real = *arg.real_type();
  const c10::Type* type = &real;
  if (type->kind() == c10::TypeKind::OptionalType)
    type = type->castRaw<c10::OptionalType>()->getElementType().get();
  if (type->kind() == c10::TypeKind::ListType) type = type->castRaw<c10::ListType>()->getElementType().get();
  return type->kind() == c10::TypeKind::SymIntType;
}

std::string symbol_name(const c10::OperatorName& name) {
  std::string text = name.name;
  const auto colons = text.find("::");
  text.replace(colons, 2, ".");
  return name.overload_name.empty() ? text : text + "." + name.overload_name;
}

}  // namespace

OpSchema::OpSchema(const c10::OperatorHandle& handle_in) : handle(handle_in) {
  const auto& schema = handle.schema();
  const auto& full = handle.operator_name();
  name = ir::Symbol::intern(symbol_name(full));
  is_aten = full.name.rfind("aten::", 0) == 0;
  bumps_versions = full.name.rfind("aten::_foreach_", 0) == 0 && schema.returns().empty();

  const auto fail_to_at_once = [&](const char* reason) {
    if (handling == Handling::kRecord) {
      handling = Handling::kAtOnce;
      why = reason;
    }
  };

  std::vector<const c10::AliasInfo*> alias;
  for (const auto& arg : schema.arguments()) {
    args.push_back(kind_of(arg));
    is_size.push_back(holds_sizes(arg));
    const bool writes = arg.alias_info() != nullptr && arg.alias_info()->isWrite();
    written.push_back(writes);
    writes_any |= writes;
    is_out |= writes && arg.is_out();
    alias.push_back(arg.alias_info());
    if (args.back() == ArgKind::kOther) fail_to_at_once("takes an argument that a graph does not hold");
  }
  const bool takes_tensors = std::any_of(args.begin(), args.end(), [](ArgKind kind) {
    return kind == ArgKind::kTensor || kind == ArgKind::kTensorList;
  });
  if (!takes_tensors) factory_dtype = schema.argumentIndexWithName("dtype").value_or(-1);
  for (const auto& ret : schema.returns()) {
    const auto& type = *ret.type();
    const bool tensor = type.kind() == c10::TypeKind::TensorType;
    const bool list = type.kind() == c10::TypeKind::ListType &&
                      type.castRaw<c10::ListType>()->getElementType()->kind() == c10::TypeKind::TensorType;
    if (!tensor && !list) fail_to_at_once(kReadsHost);
    int which = -1;
    if (ret.alias_info() != nullptr) {
      for (size_t i = 0; i < alias.size() && which < 0; ++i) {
        if (alias[i] == nullptr) continue;
        const auto& theirs = alias[i]->beforeSets();
        const auto& ours = ret.alias_info()->beforeSets();
        if (std::any_of(ours.begin(), ours.end(), [&](const auto& s) { return theirs.count(s) > 0; })) {
          which = static_cast<int>(i);
        }
      }
    }
    return_alias.push_back(which);
    return_list.push_back(list);
  }

  if (is_aten) {
    const std::string base = full.name.substr(6);
    if (const auto* row = correction_of(base, full.overload_name)) {
      if (row->handling != Handling::kRecord) {
        handling = row->handling;
        why = row->why;
      }
      random = row->random;
      static_numbers = row->static_numbers;
      asks_cpu = row->asks_cpu;
      for (const int i : row->writes) {
        written[i] = true;
        writes_any = true;
      }
    }
    const bool takes_generator = std::find(args.begin(), args.end(), ArgKind::kGenerator) != args.end();
    if (takes_generator && !random && handling == Handling::kRecord) {
      handling = Handling::kRefuse;
      why = kUnknownSampler;
    }
  }
}

}  // namespace moai::record
