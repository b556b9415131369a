#include "compile/local/verify_local_graphs.h"

#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "catch.h"
#include "ir/error.h"
#include "text_cases.h"

namespace moai::compile {
namespace {

std::string verdict(const TextCase& text) {
  std::vector<int32_t> mesh;
  std::istringstream sizes(text.part("mesh"));
  for (int32_t size; sizes >> size;) mesh.push_back(size);
  std::vector<std::shared_ptr<const ir::Graph>> graphs;
  std::istringstream devices(text.part("devices"));
  for (std::string name; devices >> name;)
    graphs.push_back(std::make_shared<const ir::Graph>(ir::parse(text.part(name))));
  try {
    verify(graphs, mesh);
  } catch (const Error& error) {
    return std::string(error.what()) + "\n";
  }
  return "no error\n";
}

// tests/cpp/cases/verify_local_graphs/*.txt: a mesh, for each device the name of a graph, and the whole
// message.
TEST_CASE("local_graphs_that_would_wait_for_ever_are_refused") {
  for (const TextCase& text : text_cases("verify_local_graphs")) {
    INFO(text.path);
    CHECK(verdict(text) == text.part("error"));
  }
}

}  // namespace
}  // namespace moai::compile
