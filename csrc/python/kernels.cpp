#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include <vector>

#include "ir/error.h"
#include "ir/graph.h"
#include "kernels/cpu/call.h"
#include "kernels/cpu/random.h"
#include "python/bindings.h"

namespace py = pybind11;

namespace moai {

void bind_kernels(py::module_& m) {
  m.def("run_node", [](const std::string& text, ir::NodeId id, const std::vector<at::Tensor>& operands,
                       const py::list& values) {
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
    cpu::Call call(node, graph, operands);
    call.run(numbers);
    const auto fresh = call.fresh_results();
    std::vector<at::Tensor> results;
    size_t next = 0;
    for (size_t r = 0; r < node.results.size(); ++r) {
      const int32_t tied = node.tied_operand(r);
      results.push_back(tied != ir::kNone ? operands[tied] : fresh.at(next++));
    }
    return results;
  });
  m.def("samplers", &cpu::samplers);
}

}  // namespace moai
