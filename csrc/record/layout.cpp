#include "record/layout.h"

#include <mutex>
#include <string>
#include <unordered_map>

namespace moai::record {

const Layout* intern_layout(at::IntArrayRef sizes, at::IntArrayRef strides, at::ScalarType dtype) {
  static auto* lock = new std::mutex;
  static auto* table = new std::unordered_map<std::string, const Layout*>;
  std::string key;
  key.reserve(1 + 16 * sizes.size());
  key.push_back(static_cast<char>(dtype));
  key.append(reinterpret_cast<const char*>(sizes.data()), sizes.size() * sizeof(int64_t));
  key.append(reinterpret_cast<const char*>(strides.data()), strides.size() * sizeof(int64_t));
  const std::lock_guard<std::mutex> guard(*lock);
  auto& entry = (*table)[key];
  if (entry == nullptr) {
    check_type(dtype);
    auto* layout = new Layout;
    layout->type = {to_ir(dtype), sizes.vec(), strides.vec()};
    layout->bytes = layout->type.bytes();
    entry = layout;
  }
  return entry;
}

void check_type(at::ScalarType dtype) {
  TORCH_CHECK_NOT_IMPLEMENTED(ir::element_bytes(to_ir(dtype)) > 0, "moai has no tensors of type ", dtype,
                              "; keep it on the CPU, or view its bytes: tensor.view(torch.uint8)");
}

}  // namespace moai::record
