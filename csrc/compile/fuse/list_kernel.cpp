#include <algorithm>
#include <unordered_map>

#include "compile/fuse/body_text.h"
#include "compile/fuse/list_ops.h"
#include "compile/fuse/lists.h"
#include "compile/fuse/prelude.h"
#include "compile/fuse/step_writer.h"
#include "ir/error.h"

namespace moai::compile {

namespace {

// A row of the table: addresses, numbers, elements, whether packs are moved, and the first chunk that is the
// next tensor's.
size_t row_words(const Kernel& kernel) {
  return kernel.inputs.size() + kernel.outputs.size() + kernel.numbers.size() + 3;
}

class ListText final : public BodyText {
 public:
  ListText(const Kernel& kernel, Target target) : BodyText(kernel), target_(target) {}

  std::string run() {
    const size_t width = row_words(kernel_);
    out_ << (target_ == Target::kCuda ? kCudaPrelude : kCppPrelude) << kSharedPrelude;
    out_ << "struct Words { i64 at[2]; };\n"
         << (target_ == Target::kCuda ? "extern \"C\" __global__ void moai_kernel(const Words words) {\n"
                                      : "extern \"C\" void moai_kernel(const Words* given) {\n"
                                        "  const Words& words = *given;\n");
    out_ << "  const i64* table = (const i64*)words.at[0];\n"
         << "  const i64 tensors = words.at[1];\n"
         << "  const i64 chunks = table[tensors * " << width << " - 1];\n"
         << "  constexpr int lanes = " << lanes_of(kernel_) << ";\n"
         << "  FOR_CHUNKS {\n"
         << "    i64 tensor = 0;\n"  // the first whose chunks end beyond this one
         << "    for (i64 some = tensors; some > 1;) {\n"
         << "      const i64 half = some / 2;\n"
         << "      if (table[(tensor + half) * " << width << " - 1] <= chunk) {\n"
         << "        tensor += half;\n"
         << "        some -= half;\n"
         << "      } else {\n"
         << "        some = half;\n"
         << "      }\n"
         << "    }\n"
         << "    const i64* at = table + tensor * " << width << ";\n"
         << "    const i64 begin = (chunk - (tensor > 0 ? at[-1] : 0)) * " << kChunkElements << ";\n"
         << "    const i64 rest = at[" << width - 3 << "] - begin;\n"
         << "    const i64 columns = rest < " << kChunkElements << " ? rest : " << kChunkElements << ";\n"
         << "    const i64 packs = at[" << width - 2 << "] ? columns / lanes : 0;\n";
    for (size_t o = 0; o < operands(); ++o) {
      out_ << "    const i64 p" << o << " = at[" << o << "]";
      if (!operand(o).of_row) out_ << " + begin * " << ir::element_bytes(operand(o).dtype);
      out_ << ";\n";
    }
    write_body();
    out_ << "  }\n}\n";
    return out_.str();
  }

 private:
  std::string number_word(size_t n) const override { return "at[" + std::to_string(operands() + n) + "]"; }
  void write_places(const char*) override {}
  std::string row_index(size_t) const override { return "0"; }
  std::string column_index(size_t) const override { return "column"; }
  std::string column_stride(size_t) const override { return "1"; }

  const Target target_;
};

}  // namespace

std::optional<Kernel> build_list_kernel(const ir::Graph& graph) {
  Kernel kernel;
  kernel.of_lists = true;
  kernel.numbers = graph.numbers();
  std::unordered_map<ir::ValueId, int32_t> step_of;
  for (const ir::ValueId input : graph.inputs()) {
    const ir::Type& type = graph.type(input);
    if (!is_computed(type.dtype)) return std::nullopt;
    Step load;
    load.kind = Step::Kind::kLoad;
    load.dtype = type.dtype;
    load.of_row = type.sizes.empty();
    load.index = static_cast<int32_t>(kernel.inputs.size());
    kernel.inputs.push_back({type.dtype, {}, load.of_row});
    step_of[input] = static_cast<int32_t>(kernel.steps.size());
    kernel.steps.push_back(std::move(load));
  }
  for (size_t n = 0; n < graph.nodes().size(); ++n) {
    const ir::Node& node = graph.nodes()[n];
    const ListOp op = node.kind == ir::NodeKind::kOp ? list_op(node.op) : nullptr;
    if (op == nullptr || node.results.empty()) return std::nullopt;
    StepWriter writer(graph, static_cast<ir::NodeId>(n), kernel, step_of);
    op(writer);
    if (writer.refused()) return std::nullopt;
    for (const ir::ValueId result : node.results) {
      if (!is_computed(graph.type(result).dtype) || step_of.count(result) == 0) return std::nullopt;
    }
  }
  for (const ir::ValueId output : graph.outputs()) {
    kernel.outputs.push_back({graph.type(output).dtype, {}, false});
    kernel.results.push_back(step_of.at(output));
  }
  return kernel;
}

std::string emit_lists(const Kernel& kernel, Target target) { return ListText(kernel, target).run(); }

Launch launch_of_lists(const Kernel& kernel, const std::vector<ListRow>& rows) {
  Launch launch;
  launch.table.reserve(rows.size() * row_words(kernel));
  const int64_t lanes = lanes_of(kernel);
  int64_t chunks = 0;
  for (const ListRow& row : rows) {
    MOAI_ASSERT(row.addresses.size() == kernel.inputs.size() + kernel.outputs.size() &&
                    row.numbers.size() == kernel.numbers.size(),
                "a kernel of lists is given other arguments than it has");
    bool has_packs = true;
    for (size_t o = 0; o < row.addresses.size(); ++o) {
      const Operand& operand =
          o < kernel.inputs.size() ? kernel.inputs[o] : kernel.outputs[o - kernel.inputs.size()];
      if (!operand.of_row)
        has_packs = has_packs && row.addresses[o] % pack_alignment(operand.dtype, lanes) == 0;
    }
    chunks += (row.elements + kChunkElements - 1) / kChunkElements;
    launch.table.insert(launch.table.end(), row.addresses.begin(), row.addresses.end());
    launch.table.insert(launch.table.end(), row.numbers.begin(), row.numbers.end());
    launch.table.insert(launch.table.end(), {row.elements, has_packs ? 1 : 0, chunks});
  }
  launch.words = {0, static_cast<int64_t>(rows.size())};
  launch.blocks = chunks;
  return launch;
}

}  // namespace moai::compile
