#pragma once

#include <string>

namespace moai::record {

// "file:line" of the innermost Python frame that is neither torch's nor ours; empty where no
// Python runs (autograd's threads).
std::string source_line();

// Is this thread inside autograd's backward?
bool in_backward();

}  // namespace moai::record
