#pragma once

#include <memory>
#include <string>
#include <vector>

#include "runtime/communicator.h"

namespace moai::runtime {

// The transport of devices that are threads of one process. Peers read and write each other's buffers where
// they lie; nothing is staged, no thread of its own runs.
//
// A collective is cut into chunks of a cache's size. Members that wait for it claim chunks until none is
// left: a chunk of an all-reduce is read from every member and its sum written to every member. A member
// that has started but still computes holds nobody up. Sleeping members cost nothing.
class SharedMemory final : public Transport {
 public:
  // `devices`: their names, for messages.
  explicit SharedMemory(std::vector<std::string> devices);
  ~SharedMemory() override;

  int device_count() const override;
  // The communicator may outlive this object.
  std::unique_ptr<Communicator> join(const std::vector<int>& devices, int device, int channel = 0) override;
  WaitTimes wait_times(int device) const override;
  void fail(int device, const std::string& why) override;
  void reset() override;

  struct World;

 private:
  std::shared_ptr<World> world_;
};

}  // namespace moai::runtime
