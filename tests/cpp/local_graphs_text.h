// Local graphs of text cases: a mesh, and for each device the name of a graph.
#pragma once

#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "ir/graph.h"
#include "text_cases.h"

namespace moai::compile {

struct LocalGraphsText {
  std::vector<int32_t> mesh;
  std::vector<std::string> names;                        // by device
  std::vector<std::shared_ptr<const ir::Graph>> graphs;  // by device; those of one name are one

  explicit LocalGraphsText(const TextCase& text) {
    std::istringstream sizes(text.part("mesh"));
    for (int32_t size; sizes >> size;) mesh.push_back(size);
    std::istringstream devices(text.part("devices"));
    std::map<std::string, std::shared_ptr<const ir::Graph>> known;
    for (std::string name; devices >> name;) {
      auto& graph = known[name];
      if (graph == nullptr) graph = std::make_shared<const ir::Graph>(ir::parse(text.part(name)));
      names.push_back(name);
      graphs.push_back(graph);
    }
  }
};

}  // namespace moai::compile
