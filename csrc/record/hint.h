#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <utility>
#include <vector>

#include "ir/graph.h"
#include "record/layout.h"
#include "record/storage.h"

namespace moai::record {

// What a script asked of where a storage's value lies, while that is laid out so. Interned and never freed,
// so that following a trace compares pointers.
struct Hint {
  const Layout* layout;
  std::vector<ir::Hint> of_dims;  // of input 0
};

// Of its value's layout; null where there is none.
inline const Hint* hint_of(const Storage& storage) {
  return storage.hint != nullptr && storage.hint->layout == storage.layout ? storage.hint : nullptr;
}

// From the next trace on the tensor's storage is hinted so, instead of what was asked before; nothing is
// where the list is empty. By axis ("data", "tensor", …) the dim that it cuts, ir::kNone for none.
// Thread-safe. Throws c10::Error where the tensor is none of ours or shows a part of its storage.
void set_hint(const at::Tensor& tensor, const std::vector<std::pair<std::string, int32_t>>& dims);

}  // namespace moai::record
