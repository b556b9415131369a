#include "compile/fuse/emit.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

#include "compile/fuse/body_text.h"
#include "compile/fuse/prelude.h"
#include "ir/error.h"

namespace moai::compile {

namespace {

using ir::Dims;

int64_t product(const Dims& sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>());
}

const Operand& operand_of(const Kernel& kernel, size_t o) {
  return o < kernel.inputs.size() ? kernel.inputs[o] : kernel.outputs[o - kernel.inputs.size()];
}

class Emitter final : public BodyText {
 public:
  Emitter(const Kernel& kernel, const Collapsed& collapsed, Target target)
      : BodyText(kernel), collapsed_(collapsed), target_(target) {}

  std::string run() {
    const size_t words = first_stride() + operands() * dims() + 1;
    out_ << (target_ == Target::kCuda ? kCudaPrelude : kCppPrelude) << kSharedPrelude;
    out_ << "struct Words { i64 at[" << words << "]; };\n";
    out_ << (target_ == Target::kCuda ? "extern \"C\" __global__ void moai_kernel(const Words words) {\n"
                                      : "extern \"C\" void moai_kernel(const Words* given) {\n"
                                        "  const Words& words = *given;\n");
    size_t word = 0;
    for (size_t o = 0; o < operands(); ++o)
      out_ << "  const i64 p" << o << " = words.at[" << word++ << "];\n";
    word += kernel_.numbers.size();
    for (const char* side : {"row", "column"}) {
      const auto& sizes = side[0] == 'r' ? collapsed_.rows : collapsed_.columns;
      for (size_t d = 0; d < sizes.size(); ++d)
        out_ << "  const i64 " << side << "_size" << d << " = words.at[" << word++ << "];\n";
    }
    count("rows", "row", collapsed_.rows.size());
    count("columns", "column", collapsed_.columns.size());
    out_ << "  constexpr int lanes = " << lanes_of(kernel_) << ";\n  const i64 packs = words.at[" << words - 1
         << "] ? columns / lanes : 0;\n";
    out_ << (kernel_.reduces ? "  FOR_ROWS {\n" : "  {\n");
    places("row", 0, collapsed_.rows.size(), "    ");
    write_body();
    out_ << "  }\n}\n";
    return out_.str();
  }

 private:
  size_t dims() const { return collapsed_.rows.size() + collapsed_.columns.size(); }
  size_t first_stride() const { return operands() + kernel_.numbers.size() + dims(); }
  std::string stride(size_t operand, size_t dim) const {
    return "words.at[" + std::to_string(first_stride() + operand * dims() + dim) + "]";
  }

  std::string number_word(size_t n) const override {
    return "words.at[" + std::to_string(operands() + n) + "]";
  }
  void write_places(const char* indent) override {
    places("column", collapsed_.rows.size(), collapsed_.columns.size(), indent);
  }
  std::string row_index(size_t operand) const override { return "row_at" + std::to_string(operand); }
  std::string column_index(size_t operand) const override {
    return row_index(operand) + " + column_at" + std::to_string(operand);
  }
  std::string column_stride(size_t operand) const override { return stride(operand, dims() - 1); }

  void count(const char* name, const char* side, size_t dims) {
    out_ << "  const i64 " << name << " = 1";
    for (size_t d = 0; d < dims; ++d) out_ << " * " << side << "_size" << d;
    out_ << ";\n  (void)" << name << ";\n";
  }

  // Where each operand's element of this row, or of this column of it, lies: `row_at3`, `column_at3`.
  void places(const char* side, size_t first_dim, size_t dims, const char* indent) {
    const bool is_row = side[0] == 'r';
    for (size_t o = 0; o < operands(); ++o) out_ << indent << "i64 " << side << "_at" << o << " = 0;\n";
    if (dims > 0) out_ << indent << "i64 " << side << "_rest = " << side << ";\n";
    for (size_t d = dims; d-- > 0;) {
      const bool is_last = d == 0;
      out_ << indent << "const i64 " << side << "_digit" << d << " = " << side << "_rest";
      if (!is_last) out_ << " % " << side << "_size" << d;
      out_ << ";\n";
      if (!is_last) out_ << indent << side << "_rest /= " << side << "_size" << d << ";\n";
      for (size_t o = 0; o < operands(); ++o) {
        if (!is_row && operand(o).of_row) continue;
        out_ << indent << side << "_at" << o << " += " << side << "_digit" << d << " * "
             << stride(o, first_dim + d) << ";\n";
      }
    }
  }

  const Collapsed& collapsed_;
  const Target target_;
};

// Joins dims of [first, last) that every operand goes through as if they were one, and drops those of size 1.
void collapse_range(const Kernel& kernel, size_t first, size_t last, Dims* sizes,
                    std::vector<Dims>* strides) {
  const size_t operands = kernel.inputs.size() + kernel.outputs.size();
  const size_t begin = sizes->size();
  for (size_t d = first; d < last; ++d) {
    const int64_t size = kernel.sizes[d];
    if (size == 1) continue;
    bool joins = sizes->size() > begin;
    for (size_t o = 0; o < operands && joins; ++o) {
      const int64_t stride = operand_of(kernel, o).strides.empty() ? 0 : operand_of(kernel, o).strides[d];
      joins = (*strides)[o].back() == stride * size;
    }
    if (joins) {
      sizes->back() *= size;
    } else {
      sizes->push_back(size);
    }
    for (size_t o = 0; o < operands; ++o) {
      const int64_t stride = operand_of(kernel, o).strides.empty() ? 0 : operand_of(kernel, o).strides[d];
      if (joins) {
        (*strides)[o].back() = stride;
      } else {
        (*strides)[o].push_back(stride);
      }
    }
  }
}

}  // namespace

int64_t Collapsed::row_count() const { return product(rows); }
int64_t Collapsed::column_count() const { return product(columns); }

Collapsed collapse(const Kernel& kernel) {
  Collapsed collapsed;
  collapsed.strides.resize(kernel.inputs.size() + kernel.outputs.size());
  collapse_range(kernel, 0, kernel.row_dims, &collapsed.rows, &collapsed.strides);
  Dims columns;
  std::vector<Dims> of_columns(collapsed.strides.size());
  collapse_range(kernel, kernel.row_dims, kernel.sizes.size(), &columns, &of_columns);
  if (columns.empty()) {
    columns.push_back(1);
    for (auto& strides : of_columns) strides.push_back(0);
  }
  for (size_t o = 0; o < of_columns.size(); ++o)
    collapsed.strides[o].insert(collapsed.strides[o].end(), of_columns[o].begin(), of_columns[o].end());
  collapsed.columns = std::move(columns);
  return collapsed;
}

std::string emit(const Kernel& kernel, const Collapsed& collapsed, Target target) {
  return Emitter(kernel, collapsed, target).run();
}

bool moves_packs(const Kernel& kernel, const Collapsed& collapsed, const std::vector<int64_t>& addresses) {
  const int64_t lanes = lanes_of(kernel);
  const int64_t inner = collapsed.columns.back();
  const bool is_split = collapsed.columns.size() > 1 && inner % lanes != 0;
  if (inner < lanes || is_split) return false;
  for (size_t o = 0; o < collapsed.strides.size(); ++o) {
    const Operand& operand = operand_of(kernel, o);
    if (operand.of_row) continue;
    const Dims& strides = collapsed.strides[o];
    const bool is_same_for_all = strides.back() == 0 && o < kernel.inputs.size();
    if (is_same_for_all) continue;
    if (strides.back() != 1) return false;
    const int64_t bytes = ir::element_bytes(operand.dtype);
    const int64_t alignment = pack_alignment(operand.dtype, lanes);
    if (addresses[o] % alignment != 0) return false;
    const bool is_aligned = std::all_of(strides.begin(), strides.end() - 1,
                                        [&](int64_t stride) { return stride * bytes % alignment == 0; });
    if (!is_aligned) return false;
  }
  return true;
}

Launch launch_of(const Kernel& kernel, const Collapsed& collapsed, const std::vector<const void*>& inputs,
                 const std::vector<void*>& outputs, const std::vector<int64_t>& numbers) {
  MOAI_ASSERT(inputs.size() == kernel.inputs.size() && outputs.size() == kernel.outputs.size() &&
                  numbers.size() == kernel.numbers.size(),
              "a kernel is given other arguments than it has");
  Launch launch;
  auto& words = launch.words;
  for (const void* input : inputs) words.push_back(reinterpret_cast<int64_t>(input));
  for (void* output : outputs) words.push_back(reinterpret_cast<int64_t>(output));
  const bool has_packs = moves_packs(kernel, collapsed, words);
  words.insert(words.end(), numbers.begin(), numbers.end());
  words.insert(words.end(), collapsed.rows.begin(), collapsed.rows.end());
  words.insert(words.end(), collapsed.columns.begin(), collapsed.columns.end());
  for (const auto& strides : collapsed.strides) words.insert(words.end(), strides.begin(), strides.end());
  words.push_back(has_packs ? 1 : 0);
  const int64_t turns = collapsed.column_count() / (has_packs ? lanes_of(kernel) : 1);
  launch.blocks = kernel.reduces ? collapsed.row_count()
                                 : std::max<int64_t>(1, (turns + kBlockThreads - 1) / kBlockThreads);
  return launch;
}

}  // namespace moai::compile
