#pragma once

#include <cstddef>

#include "record/op_schema.h"
#include "record/storage.h"

namespace moai::record {

// Makes a storage hold at least `bytes`, keeping what it holds; may cut and wait.
void grow(Storage& storage, int64_t bytes);

// The recorder's entry for an op, for kernels that record only some of their calls. Never freed.
const OpSchema& schema_of(const char* name, const char* overload);

// Registers the recorder for every operator that needs it, and for those of libraries loaded
// later. Called once, at import.
void register_ops();

// Registers what libraries loaded since the last call have defined. Costs a load when none were.
void register_new_ops();

}  // namespace moai::record
