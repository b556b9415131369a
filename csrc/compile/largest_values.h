#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "compile/program.h"

namespace moai::compile {

// The largest values that are in memory when an instruction runs, largest first, for messages:
// `12.0 MiB f32[1024,3072] of aten.mm at train.py:7`. `lines`: by Node::origin, or null.
std::vector<std::string> largest_values(const Program& program, size_t instruction, size_t most,
                                        const std::vector<std::string>* lines);

}  // namespace moai::compile
