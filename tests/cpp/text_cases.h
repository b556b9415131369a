// Tests written as text: tests/cpp/cases/<folder>/*.txt.
//
//   # a comment before the first part
//   in:
//   graph(...) { ... }
//   out:
//   graph(...) { ... }
//
// A part goes from its name, at the start of a line of its own, to the next one.
#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace moai {

struct TextCase {
  std::string path;
  std::map<std::string, std::string> parts;

  const std::string& part(const std::string& name) const {
    const auto found = parts.find(name);
    if (found == parts.end()) throw std::runtime_error(path + ": no part `" + name + ":`");
    return found->second;
  }
};

inline TextCase read_text_case(const std::filesystem::path& path) {
  TextCase text{path.string(), {}};
  std::ifstream file(path);
  std::string part;
  for (std::string line; std::getline(file, line);) {
    const bool is_name =
        line.size() > 1 && line.back() == ':' &&
        std::all_of(line.begin(), line.end() - 1, [](char c) { return c >= 'a' && c <= 'z'; });
    if (is_name) {
      part = line.substr(0, line.size() - 1);
      text.parts[part];
    } else if (!part.empty()) {
      text.parts[part] += line + "\n";
    }
  }
  return text;
}

// In the order of their names; a folder with no cases is an error.
inline std::vector<TextCase> text_cases(const std::string& folder) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(MOAI_TEST_CASES) + "/" + folder)) {
    if (entry.path().extension() == ".txt") paths.push_back(entry.path());
  }
  if (paths.empty()) throw std::runtime_error("no cases in " + folder);
  std::sort(paths.begin(), paths.end());
  std::vector<TextCase> cases;
  for (const auto& path : paths) cases.push_back(read_text_case(path));
  return cases;
}

}  // namespace moai
