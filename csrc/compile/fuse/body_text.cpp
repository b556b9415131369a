#include "compile/fuse/body_text.h"

#include <algorithm>

#include "ir/error.h"

namespace moai::compile {

using ir::DType;

const char* c_type(DType dtype) {
  switch (dtype) {
    case DType::kF64: return "double";
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16: return "float";
    default: return "i64";
  }
}

int64_t lanes_of(const Kernel& kernel) {
  constexpr int64_t kBlockBytes = 16, kMostLanes = 8;
  int64_t smallest = kBlockBytes / 2;
  for (const auto* side : {&kernel.inputs, &kernel.outputs}) {
    for (const Operand& operand : *side)
      if (!operand.of_row) smallest = std::min(smallest, ir::element_bytes(operand.dtype));
  }
  return std::min(kBlockBytes / smallest, kMostLanes);
}

int64_t pack_alignment(DType dtype, int64_t lanes) {
  constexpr int64_t kBlockBytes = 16;
  return std::min(kBlockBytes, lanes * ir::element_bytes(dtype));
}

BodyText::BodyText(const Kernel& kernel) : kernel_(kernel) {
  for (const Step& step : kernel.steps) {
    int32_t depth = 0;
    for (const int32_t arg : step.args) depth = std::max(depth, depth_of_[arg]);
    depth_of_.push_back(depth + (step.kind == Step::Kind::kReduce ? 1 : 0));
    deepest_ = std::max(deepest_, depth_of_.back());
  }
}

const Operand& BodyText::operand(size_t o) const {
  return o < kernel_.inputs.size() ? kernel_.inputs[o] : kernel_.outputs[o - kernel_.inputs.size()];
}

void BodyText::write_body() {
  write_of_row(0);
  for (int32_t depth = 1; depth <= deepest_; ++depth) {
    write_reductions(depth);
    write_of_row(depth);
  }
  write_results();
}

std::string BodyText::expression(const Step& step) const {
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

// `loaded`: what a load has found already.
void BodyText::write_step(size_t s, const char* indent, const std::string& loaded) {
  const Step& step = kernel_.steps[s];
  const std::string dtype = ir::dtype_name(step.dtype);
  out_ << indent << "const " << c_type(step.dtype) << " s" << s << " = ";
  switch (step.kind) {
    case Step::Kind::kLoad:
      if (!loaded.empty()) {
        out_ << loaded << ";\n";
      } else {
        const auto o = static_cast<size_t>(step.index);
        out_ << "load_" << dtype << "(p" << o << ", " << (step.of_row ? row_index(o) : column_index(o))
             << ");\n";
      }
      break;
    case Step::Kind::kNumber:
      out_ << (kernel_.numbers[step.index] == ir::NumberKind::kFloat ? "as_double" : "as_integer") << "("
           << number_word(static_cast<size_t>(step.index)) << ");\n";
      break;
    case Step::Kind::kApply: out_ << "to_" << dtype << "(" << expression(step) << ");\n"; break;
    case Step::Kind::kReduce: MOAI_ASSERT(false, "a reduction is no expression"); break;
  }
}

// Which element steps these need, themselves included.
BodyText::Steps BodyText::needed(const std::vector<int32_t>& roots) const {
  Steps all(kernel_.steps.size(), false);
  for (const int32_t root : roots) all[root] = true;
  for (size_t s = all.size(); s-- > 0;) {
    if (!all[s] || kernel_.steps[s].of_row) continue;
    for (const int32_t arg : kernel_.steps[s].args) all[arg] = true;
  }
  for (size_t s = 0; s < all.size(); ++s) all[s] = all[s] && !kernel_.steps[s].of_row;
  return all;
}

void BodyText::write_loop(const Steps& which, const std::function<void(const char*)>& then,
                          const std::function<void(const char*, bool)>& store) {
  const std::string of_grid = kernel_.has_rows() ? "" : "_OF_GRID";
  const auto is_load = [&](size_t s) { return which[s] && kernel_.steps[s].kind == Step::Kind::kLoad; };
  out_ << "    FOR_PACKS" << of_grid << " {\n      const i64 column = pack * lanes;\n";
  write_places("      ");
  for (size_t s = 0; s < which.size(); ++s) {
    if (!is_load(s)) continue;
    const Step& step = kernel_.steps[s];
    const auto o = static_cast<size_t>(step.index);
    out_ << "      " << c_type(step.dtype) << " l" << s << "[lanes];\n      load_pack_"
         << ir::dtype_name(step.dtype) << "<lanes>(p" << o << ", " << column_index(o) << ", "
         << column_stride(o) << ", l" << s << ");\n";
  }
  for (size_t o = 0; store && o < kernel_.outputs.size(); ++o) {
    if (!kernel_.outputs[o].of_row)
      out_ << "      " << c_type(kernel_.outputs[o].dtype) << " o" << o << "[lanes];\n";
  }
  out_ << "      UNROLL for (int lane = 0; lane < lanes; ++lane) {\n";
  for (size_t s = 0; s < which.size(); ++s) {
    if (which[s]) write_step(s, "        ", is_load(s) ? "l" + std::to_string(s) + "[lane]" : "");
  }
  then("        ");
  for (size_t o = 0; store && o < kernel_.outputs.size(); ++o) {
    if (!kernel_.outputs[o].of_row) out_ << "        o" << o << "[lane] = s" << kernel_.results[o] << ";\n";
  }
  out_ << "      }\n";
  if (store) store("      ", true);
  out_ << "    }\n    FOR_COLUMNS" << of_grid << " {\n";
  write_places("      ");
  for (size_t s = 0; s < which.size(); ++s) {
    if (which[s]) write_step(s, "      ");
  }
  then("      ");
  if (store) store("      ", false);
  out_ << "    }\n";
}

void BodyText::write_of_row(int32_t depth) {
  for (size_t s = 0; s < kernel_.steps.size(); ++s) {
    const Step& step = kernel_.steps[s];
    if (step.of_row && depth_of_[s] == depth && step.kind != Step::Kind::kReduce) write_step(s, "    ");
  }
}

// Those that need reductions of less depth alone.
void BodyText::write_reductions(int32_t depth) {
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
  const auto combine = [&](const char* indent) {
    for (const int32_t s : reductions)
      out_ << indent << "r" << s << " = " << name(s) << "(r" << s << ", s" << kernel_.steps[s].args[0]
           << ");\n";
  };
  write_loop(needed(reduced), combine, nullptr);
  for (const int32_t s : reductions)
    out_ << "    const " << c_type(kernel_.steps[s].dtype) << " s" << s << " = OVER_BLOCK(" << name(s)
         << ", r" << s << ");\n";
}

void BodyText::write_results() {
  std::vector<int32_t> roots;
  for (size_t o = 0; o < kernel_.results.size(); ++o) {
    if (!kernel_.outputs[o].of_row) roots.push_back(kernel_.results[o]);
  }
  const auto store = [&](const char* indent, bool is_pack) {
    for (size_t o = 0; o < kernel_.results.size(); ++o) {
      if (kernel_.outputs[o].of_row) continue;
      const size_t at = kernel_.inputs.size() + o;
      out_ << indent << "store_" << (is_pack ? "pack_" : "") << ir::dtype_name(kernel_.outputs[o].dtype)
           << (is_pack ? "<lanes>" : "") << "(p" << at << ", " << column_index(at) << ", "
           << (is_pack ? "o" : "s") << (is_pack ? static_cast<int32_t>(o) : kernel_.results[o]) << ");\n";
    }
  };
  if (!roots.empty()) write_loop(needed(roots), [](const char*) {}, store);
  for (size_t o = 0; o < kernel_.results.size(); ++o) {
    if (!kernel_.outputs[o].of_row) continue;
    const size_t at = kernel_.inputs.size() + o;
    out_ << "    ONCE_A_ROW store_" << ir::dtype_name(kernel_.outputs[o].dtype) << "(p" << at << ", "
         << row_index(at) << ", s" << kernel_.results[o] << ");\n";
  }
}

}  // namespace moai::compile
