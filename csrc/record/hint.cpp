#include "record/hint.h"

#include <c10/util/Exception.h>

#include <map>
#include <memory>

#include "record/recorder.h"
#include "record/storage.h"

namespace moai::record {

void set_hint(const at::Tensor& tensor, const std::vector<std::pair<std::string, int32_t>>& dims) {
  TORCH_CHECK_VALUE(
      is_moai(tensor) && has_own_storage(*tensor.unsafeGetTensorImpl()),
      "moai.hint is for tensors of the device \"moai\": move the tensor or its module there first");
  Storage& storage = storage_of(tensor);
  const Guard guard(lock());
  TORCH_CHECK_VALUE(
      layout_of(tensor) == storage.layout,
      "moai.hint is for whole tensors, and this one shows a part of another or shows it otherwise: "
      "hint the one that it is a view of");
  static std::map<std::pair<const Layout*, std::vector<std::pair<std::string, int32_t>>>,
                  std::unique_ptr<Hint>>
      known;  // under the recorder's lock
  if (dims.empty()) {
    storage.hint = nullptr;
    return;
  }
  auto& hint = known[{storage.layout, dims}];
  if (hint == nullptr) {
    hint = std::make_unique<Hint>();
    hint->layout = storage.layout;
    for (const auto& [axis, dim] : dims) hint->of_dims.push_back({0, ir::Symbol::intern(axis), dim});
  }
  storage.hint = hint.get();
}

}  // namespace moai::record
