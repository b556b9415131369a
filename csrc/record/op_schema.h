#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <string>
#include <vector>

#include "ir/symbol.h"

namespace moai::record {

// How the recorder reads one argument of an operator.
enum class ArgKind : uint8_t {
  kTensor,      // Tensor or Tensor?
  kTensorList,  // Tensor[] or Tensor?[]
  kScalar,      // a number of the step: Scalar, float and their optionals
  kScalarList,  // Scalar[]
  kStatic,      // everything that is structure: int, bool, str, dtype, int[], …
  kDevice,      // ignored: there is one device
  kGenerator,   // which generator the random numbers come from
  kOther,       // not understood: the op runs at once
};

// What the recorder does with an operator.
enum class Handling : uint8_t {
  kRecord,     // becomes a node
  kAtOnce,     // cuts, and runs now on what its inputs hold: its result depends on data
  kDecompose,  // not registered: torch's own composite kernel calls simpler operators
  kRefuse,     // an error: draws random numbers in a way that would depend on the plan, or is not strided
};

// One entry of the table of schema corrections: what the schema does not tell.
struct Correction {
  const char* op;  // `name.overload`, or `name.*` for all overloads
  Handling handling = Handling::kRecord;
  std::vector<int> writes;      // arguments that it writes without saying so
  bool static_numbers = false;  // numbers are structure
  bool random = false;          // takes (seed, counter) as two numbers behind its arguments
  const char* why = "";
  bool asks_cpu = false;  // the CPU's kernel returns other sizes than the meta kernel says
};
const std::vector<Correction>& corrections();

// An operator as the recorder sees it; made once, at registration.
struct OpSchema {
  explicit OpSchema(const c10::OperatorHandle& handle);

  c10::OperatorHandle handle;
  ir::Symbol name;  // `aten.add.Tensor`
  std::vector<ArgKind> args;
  std::vector<bool> is_size;      // by argument: a size, in the schema's own words (SymInt)
  std::vector<bool> written;      // by argument: the op writes it
  std::vector<int> return_alias;  // by return: the argument it is, or -1 when fresh
  std::vector<bool> return_list;  // by return: Tensor[]
  Handling handling = Handling::kRecord;
  bool random = false;
  bool static_numbers = false;
  bool is_aten = false;
  // Autograd counts no version for ops that write lists and return nothing: their kernels do.
  bool bumps_versions = false;
  bool asks_cpu = false;
  bool writes_any = false;
  int32_t factory_dtype = -1;  // of an op without tensors: the argument that is its result's dtype
  bool is_out = false;         // has an `out` argument, which it may resize
  std::string why;             // of kAtOnce and kRefuse
};

}  // namespace moai::record
