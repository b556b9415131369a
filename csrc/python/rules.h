#pragma once

#include <pybind11/pybind11.h>

namespace moai {

// `_C.rules(text)`: the rules of a graph's nodes, as plain dicts; what the tests hold against truth.
void bind_rules(pybind11::module_& m);

}  // namespace moai
