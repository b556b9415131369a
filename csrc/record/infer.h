#pragma once

#include <ATen/core/ivalue.h>

#include <string>
#include <vector>

#include "record/op_schema.h"
#include "record/trace.h"

namespace moai::record {

// What a call will return, found out without running it.
struct Inferred {
  bool at_once = false;  // it cannot be known: run the op now
  std::string why;
  std::vector<ReturnSpec> returns;
  std::vector<const Layout*> resized;  // by write, in order: its new layout, or null
};

// Runs the op's meta kernel on tensors of the arguments' types. Memoised on the types and static
// arguments. Neither the recorder's lock nor the GIL need be held (some meta kernels are Python).
//
// Where the meta kernel refuses the call, the op runs on CPU tensors of those sizes, whose error
// is thrown in its place: eager's own text. The first call of an op with given dtypes also runs on
// small CPU tensors, since meta kernels accept dtypes that no kernel has.
Inferred infer(const OpSchema& op, at::ArrayRef<at::IValue> args);

}  // namespace moai::record
