#include "compile/fuse/emit.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <sstream>

#include "compile/fuse/prelude.h"
#include "ir/error.h"

namespace moai::compile {

namespace {

using ir::Dims;
using ir::DType;

int64_t product(const Dims& sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>());
}

const Operand& operand_of(const Kernel& kernel, size_t o) {
  return o < kernel.inputs.size() ? kernel.inputs[o] : kernel.outputs[o - kernel.inputs.size()];
}

const char* c_type(DType dtype) {
  switch (dtype) {
    case DType::kF64: return "double";
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16: return "float";
    default: return "i64";
  }
}

class Emitter {
 public:
  Emitter(const Kernel& kernel, const Collapsed& collapsed, Target target)
      : kernel_(kernel), collapsed_(collapsed), target_(target) {
    for (const Step& step : kernel.steps) {
      int32_t depth = 0;
      for (const int32_t arg : step.args) depth = std::max(depth, depth_of_[arg]);
      depth_of_.push_back(depth + (step.kind == Step::Kind::kReduce ? 1 : 0));
      deepest_ = std::max(deepest_, depth_of_.back());
    }
  }

  std::string run() {
    const size_t words =
        words_before_strides() + operands() * (collapsed_.rows.size() + collapsed_.columns.size());
    out_ << (target_ == Target::kCuda ? kCudaPrelude : kCppPrelude) << kSharedPrelude;
    out_ << "struct Words { i64 at[" << words << "]; };\n";
    out_ << (target_ == Target::kCuda ? "extern \"C\" __global__ void moai_kernel(const Words words) {\n"
                                      : "extern \"C\" void moai_kernel(const Words* given) {\n"
                                        "  const Words& words = *given;\n");
    size_t word = 0;
    for (size_t o = 0; o < operands(); ++o)
      out_ << "  const i64 p" << o << " = words.at[" << word++ << "];\n";
    first_number_ = word;
    word += kernel_.numbers.size();
    for (const char* side : {"row", "column"}) {
      const auto& sizes = side[0] == 'r' ? collapsed_.rows : collapsed_.columns;
      for (size_t d = 0; d < sizes.size(); ++d)
        out_ << "  const i64 " << side << "_size" << d << " = words.at[" << word++ << "];\n";
    }
    count("rows", "row", collapsed_.rows.size());
    count("columns", "column", collapsed_.columns.size());
    out_ << (kernel_.reduces ? "  FOR_ROWS {\n" : "  {\n");
    places("row", 0, collapsed_.rows.size(), "    ");
    std::vector<bool> emitted(kernel_.steps.size(), false);
    of_row(0, &emitted);
    for (int32_t depth = 1; depth <= deepest_; ++depth) {
      phase(depth);
      of_row(depth, &emitted);
    }
    write();
    out_ << "  }\n}\n";
    return out_.str();
  }

 private:
  size_t operands() const { return kernel_.inputs.size() + kernel_.outputs.size(); }
  size_t words_before_strides() const {
    return operands() + kernel_.numbers.size() + collapsed_.rows.size() + collapsed_.columns.size();
  }

  void count(const char* name, const char* side, size_t dims) {
    out_ << "  const i64 " << name << " = 1";
    for (size_t d = 0; d < dims; ++d) out_ << " * " << side << "_size" << d;
    out_ << ";\n  (void)" << name << ";\n";
  }

  // Where each operand's element of this row, or of this column of it, lies: `row_at3`, `column_at3`.
  void places(const char* side, size_t first_dim, size_t dims, const char* indent) {
    const bool is_row = first_dim == 0 && side[0] == 'r';
    for (size_t o = 0; o < operands(); ++o) out_ << indent << "i64 " << side << "_at" << o << " = 0;\n";
    if (dims > 0) out_ << indent << "i64 " << side << "_rest = " << side << ";\n";
    for (size_t d = dims; d-- > 0;) {
      const bool is_last = d == 0;
      out_ << indent << "const i64 " << side << "_digit" << d << " = " << side << "_rest";
      if (!is_last) out_ << " % " << side << "_size" << d;
      out_ << ";\n";
      if (!is_last) out_ << indent << side << "_rest /= " << side << "_size" << d << ";\n";
      for (size_t o = 0; o < operands(); ++o) {
        if (!is_row && operand_of(kernel_, o).of_row && kernel_.reduces) continue;
        const size_t all = collapsed_.rows.size() + collapsed_.columns.size();
        out_ << indent << side << "_at" << o << " += " << side << "_digit" << d << " * words.at["
             << words_before_strides() + o * all + first_dim + d << "];\n";
      }
    }
  }

  std::string expression(const Step& step) const {
    std::string text;
    for (size_t i = 0; i < step.text.size(); ++i) {
      if (step.text[i] == '$') {
        text += "s" + std::to_string(step.args[static_cast<size_t>(step.text[++i] - '0')]);
      } else if (step.text[i] == '@') {
        text += std::string("(") + c_type(step.dtype) + ")";
      } else {
        text += step.text[i];
      }
    }
    return text;
  }

  void step(size_t s, const char* indent) {
    const Step& step = kernel_.steps[s];
    const std::string dtype = ir::dtype_name(step.dtype);
    out_ << indent << "const " << c_type(step.dtype) << " s" << s << " = ";
    switch (step.kind) {
      case Step::Kind::kLoad:
        out_ << "load_" << dtype << "(p" << step.index << ", row_at" << step.index
             << (step.of_row ? "" : " + column_at" + std::to_string(step.index)) << ");\n";
        break;
      case Step::Kind::kNumber:
        out_ << (kernel_.numbers[step.index] == ir::NumberKind::kFloat ? "as_double" : "as_integer")
             << "(words.at[" << first_number_ + static_cast<size_t>(step.index) << "]);\n";
        break;
      case Step::Kind::kApply: out_ << "to_" << dtype << "(" << expression(step) << ");\n"; break;
      case Step::Kind::kReduce: MOAI_ASSERT(false, "a reduction is no expression"); break;
    }
  }

  // Which element steps these need, themselves included.
  std::vector<bool> needed(const std::vector<int32_t>& roots) const {
    std::vector<bool> all(kernel_.steps.size(), false);
    for (const int32_t root : roots) all[root] = true;
    for (size_t s = all.size(); s-- > 0;) {
      if (!all[s] || kernel_.steps[s].of_row) continue;
      for (const int32_t arg : kernel_.steps[s].args) all[arg] = true;
    }
    for (size_t s = 0; s < all.size(); ++s) all[s] = all[s] && !kernel_.steps[s].of_row;
    return all;
  }

  void elements(const std::vector<bool>& which) {
    places("column", collapsed_.rows.size(), collapsed_.columns.size(), "      ");
    for (size_t s = 0; s < which.size(); ++s) {
      if (which[s]) step(s, "      ");
    }
  }

  void of_row(int32_t depth, std::vector<bool>* emitted) {
    for (size_t s = 0; s < kernel_.steps.size(); ++s) {
      if (!kernel_.steps[s].of_row || depth_of_[s] != depth || (*emitted)[s]) continue;
      (*emitted)[s] = true;
      if (kernel_.steps[s].kind != Step::Kind::kReduce) step(s, "    ");
    }
  }

  // The reductions that need those of less depth alone.
  void phase(int32_t depth) {
    std::vector<int32_t> reductions, reduced;
    for (size_t s = 0; s < kernel_.steps.size(); ++s) {
      const Step& step = kernel_.steps[s];
      if (step.kind != Step::Kind::kReduce || depth_of_[s] != depth) continue;
      reductions.push_back(static_cast<int32_t>(s));
      reduced.push_back(step.args[0]);
    }
    const auto name = [&](int32_t s) {
      const char* names[] = {"sum", "max", "min"};
      return std::string(names[static_cast<size_t>(kernel_.steps[s].reduction)]) + "_" +
             c_type(kernel_.steps[s].dtype);
    };
    for (const int32_t s : reductions)
      out_ << "    " << c_type(kernel_.steps[s].dtype) << " r" << s << " = first_" << name(s) << "();\n";
    out_ << "    FOR_COLUMNS {\n";
    elements(needed(reduced));
    for (const int32_t s : reductions)
      out_ << "      r" << s << " = " << name(s) << "(r" << s << ", s" << kernel_.steps[s].args[0] << ");\n";
    out_ << "    }\n";
    for (const int32_t s : reductions)
      out_ << "    const " << c_type(kernel_.steps[s].dtype) << " s" << s << " = OVER_BLOCK(" << name(s)
           << ", r" << s << ");\n";
  }

  void write() {
    std::vector<int32_t> roots;
    for (const int32_t s : kernel_.results) {
      if (!kernel_.steps[s].of_row || !kernel_.reduces) roots.push_back(s);
    }
    const auto store = [&](size_t o, const char* indent, bool has_column) {
      const size_t at = kernel_.inputs.size() + o;
      out_ << indent << "store_" << ir::dtype_name(kernel_.outputs[o].dtype) << "(p" << at << ", row_at" << at
           << (has_column ? " + column_at" + std::to_string(at) : "") << ", s" << kernel_.results[o]
           << ");\n";
    };
    if (!roots.empty()) {
      out_ << (kernel_.reduces ? "    FOR_COLUMNS {\n" : "    FOR_ELEMENTS {\n");
      elements(needed(roots));
      for (size_t o = 0; o < kernel_.results.size(); ++o) {
        if (!kernel_.outputs[o].of_row || !kernel_.reduces) store(o, "      ", true);
      }
      out_ << "    }\n";
    }
    for (size_t o = 0; o < kernel_.results.size(); ++o) {
      if (!kernel_.outputs[o].of_row || !kernel_.reduces) continue;
      out_ << "    ONCE_A_ROW ";
      store(o, "", false);
    }
  }

  const Kernel& kernel_;
  const Collapsed& collapsed_;
  const Target target_;
  std::vector<int32_t> depth_of_;  // by step: how many reductions come one after the other
  int32_t deepest_ = 0;
  size_t first_number_ = 0;
  std::ostringstream out_;
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

std::vector<int64_t> kernel_words(const Kernel& kernel, const Collapsed& collapsed,
                                  const std::vector<const void*>& inputs, const std::vector<void*>& outputs,
                                  const std::vector<int64_t>& numbers) {
  MOAI_ASSERT(inputs.size() == kernel.inputs.size() && outputs.size() == kernel.outputs.size() &&
                  numbers.size() == kernel.numbers.size(),
              "a kernel is given other arguments than it has");
  std::vector<int64_t> words;
  for (const void* input : inputs) words.push_back(reinterpret_cast<int64_t>(input));
  for (void* output : outputs) words.push_back(reinterpret_cast<int64_t>(output));
  words.insert(words.end(), numbers.begin(), numbers.end());
  words.insert(words.end(), collapsed.rows.begin(), collapsed.rows.end());
  words.insert(words.end(), collapsed.columns.begin(), collapsed.columns.end());
  for (const auto& strides : collapsed.strides) words.insert(words.end(), strides.begin(), strides.end());
  return words;
}

}  // namespace moai::compile
