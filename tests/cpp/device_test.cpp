#include "runtime/device.h"

#include <string>
#include <vector>

#include "catch.h"
#include "threads.h"

namespace moai::runtime {
namespace {

TEST_CASE("devices_share_the_cores") {
  struct Row {
    int count;
    int cores;
    std::vector<int> threads;
  };
  for (const Row& row : {Row{1, 8, {8}}, Row{3, 8, {3, 3, 2}}, Row{4, 2, {1, 1, 1, 1}}, Row{2, 1, {1, 1}}}) {
    std::vector<int> threads;
    std::vector<std::string> names;
    for (const auto& device : make_devices(row.count, row.cores, -1)) {
      threads.push_back(device->threads);
      names.push_back(device->name);
    }
    CHECK(threads == row.threads);
    CHECK(names.front() == "cpu:0");
    CHECK(names.back() == "cpu:" + std::to_string(row.count - 1));
  }
}

TEST_CASE("each_device_has_a_limit_of_its_own_and_is_named") {
  const auto devices = make_devices(2, 2, 1024);
  const BlockPtr block = devices[1]->memory.allocate(1000);
  CHECK(
      error_of([&] { devices[1]->memory.allocate(1); }) ==
      "moai run: out of memory on cpu:1: 1 bytes asked for, 0 bytes free of 1024 bytes (MOAI_DEVICE_MEMORY)\n"
      "  would work: a smaller batch, activation checkpointing, `del` of what is held in vain, or more "
      "memory");
  CHECK(devices[0]->memory.allocate(1024) != nullptr);
}

}  // namespace
}  // namespace moai::runtime
