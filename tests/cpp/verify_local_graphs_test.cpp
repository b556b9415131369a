#include "compile/local/verify_local_graphs.h"

#include <string>

#include "catch.h"
#include "ir/error.h"
#include "local_graphs_text.h"

namespace moai::compile {
namespace {

std::string verdict(const TextCase& text) {
  const LocalGraphsText local(text);
  try {
    verify(local.graphs, local.mesh);
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
