#pragma once

#include "ir/symbol.h"

namespace moai::ops {

// Note [Values on the host]
// `moai.to_host` leaves its operand as it is and makes a copy of it in the host's memory; `moai.from_host`
// makes a copy of such a value in the device's. Of a value on the host a part can be seen through views;
// nothing else reads it.
ir::Symbol to_host();
ir::Symbol from_host();

inline bool is_host_copy(ir::Symbol op) { return op == to_host() || op == from_host(); }

}  // namespace moai::ops
