#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include <memory>
#include <string>
#include <vector>

#include "compile/fuse/emit.h"
#include "compile/fuse/lists.h"
#include "ir/error.h"
#include "ir/graph.h"
#include "kernels/aten/call.h"
#include "kernels/aten/random.h"
#include "kernels/cpu/apart.h"
#include "kernels/cpu/machine.h"
#include "python/bindings.h"

namespace py = pybind11;

namespace moai {

void bind_kernels(py::module_& m) {
  const auto run_node = [](const std::string& text, ir::NodeId id, const std::vector<at::Tensor>& operands,
                           const py::list& values, bool apart) {
    const ir::Graph graph = ir::parse(text);
    MOAI_ASSERT(values.size() == graph.numbers().size(), "the graph has ", graph.numbers().size(),
                " numbers");
    std::vector<runtime::Number> numbers(values.size());
    for (size_t n = 0; n < values.size(); ++n) {
      if (graph.numbers()[n] == ir::NumberKind::kFloat) {
        numbers[n].f = values[n].cast<double>();
      } else {
        numbers[n].i = values[n].cast<int64_t>();
      }
    }
    const ir::Node& node = graph.node(id);
    const std::unique_ptr<aten::Machine> machine =
        apart ? cpu::make_apart_machine(cpu::Fuses::kNo) : cpu::make_machine(1);
    aten::Call call(node, graph, operands, *machine);
    call.run(numbers);
    const auto fresh = call.fresh_results();
    std::vector<at::Tensor> results;
    size_t next = 0;
    for (size_t r = 0; r < node.results.size(); ++r) {
      const int32_t tied = node.tied_operand(r);
      results.push_back(tied != ir::kNone ? operands[tied] : fresh.at(next++));
    }
    return results;
  };
  m.def("run_node", run_node, py::arg("text"), py::arg("node"), py::arg("operands"), py::arg("values"),
        py::arg("apart") = false);
  // The text of the one kernel of a graph, in C++ or CUDA; empty where one kernel cannot be it.
  m.def("kernel_text", [](const std::string& text, bool cuda) {
    const auto kernel = compile::build_kernel(ir::parse(text));
    if (!kernel) return std::string();
    return compile::emit(*kernel, compile::collapse(*kernel),
                         cuda ? compile::Target::kCuda : compile::Target::kCpp);
  });
  // The same of the kernel of a graph of one element of each list.
  m.def("list_kernel_text", [](const std::string& text, bool cuda) {
    const auto kernel = compile::build_list_kernel(ir::parse(text));
    if (!kernel) return std::string();
    return compile::emit_lists(*kernel, cuda ? compile::Target::kCuda : compile::Target::kCpp);
  });
  m.def("samplers", &aten::samplers);
}

}  // namespace moai
