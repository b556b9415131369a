#include "runtime/device.h"

#include <algorithm>

#include "ir/error.h"

namespace moai::runtime {

std::vector<std::unique_ptr<Device>> make_devices(int count, int cores, int64_t limit_bytes) {
  MOAI_ASSERT(count >= 1 && cores >= 1, count, " devices on ", cores, " cores");
  std::vector<std::unique_ptr<Device>> devices;
  for (int d = 0; d < count; ++d) {
    const int share = cores / count + (d < cores % count ? 1 : 0);
    devices.push_back(
        std::make_unique<Device>(d, concat("cpu:", d), std::max(share, 1), limit_bytes, count == 1));
  }
  return devices;
}

}  // namespace moai::runtime
