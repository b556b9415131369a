#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ir/type.h"

namespace moai::plan {

// What one device can do. Rates are of dense arithmetic, without sparsity; 0 where no figure is known.
struct DeviceKind {
  std::string name;
  int64_t memory_bytes = 0;
  // Peak FLOP/s of matrix products by the type of their inputs.
  double flops_fp32 = 0;
  double flops_tf32 = 0;
  double flops_bf16 = 0;
  double flops_fp16 = 0;
  double flops_fp64 = 0;
  double flops_fp8 = 0;
  double memory_bytes_per_s = 0;  // peak
  double op_overhead_s = 0;       // from one kernel's end to the next one's start
  // Which part of the peaks is reached: by matrix products and attention of FLOP/s, by copies of bytes/s.
  double gemm_efficiency = 1;
  double attention_efficiency = 1;
  double memory_efficiency = 1;
  // Which part of the messages that could go on beside computing does, without making it wait or slower.
  double overlap = 1;
  // The link to the host, in one direction, as copies of pinned memory reach it; 0: nothing is known of it,
  // and nothing is kept there.
  double host_bytes_per_s = 0;
  double host_memory_bytes = 0;  // of its host's, what a device may use
  double host_overlap = 1;       // as `overlap`, of copies to and from the host

  // Peak FLOP/s for inputs of this type. A rate that is not known is taken from the next wider type that
  // is: fp8, then fp16 or bf16, then fp32. fp64 without a figure counts as fp32, which is too fast.
  double flops(ir::DType dtype) const;

  bool operator==(const DeviceKind& other) const;
};

// One level of the topology: how many units of the level below it are joined, and by what.
struct Level {
  std::string name;      // "NVLink", "InfiniBand", …
  int32_t size = 1;      // units of the level below; at the innermost level, devices
  double latency_s = 0;  // of one step of a collective: a message to a neighbour, its kernel's part included
  // Of one device, in one direction, to all its peers together, as collectives reach it.
  double bytes_per_s = 0;
  double start_s = 0;  // of any collective that reaches this level: launch, first handshake
  // Between two devices, in one direction: less than bytes_per_s where links run from pair to pair. 0 for
  // as much as bytes_per_s: a switch.
  double pair_bytes_per_s = 0;
  // All-reduced bytes/s when the switch adds; 0 where it cannot.
  double switch_reduce_bytes_per_s = 0;

  bool operator==(const Level& other) const;
};

// A set of devices and how they are joined. Devices are numbered with the innermost level fastest:
// device 9 of hosts of 8 is the second of the second host.
struct Cluster {
  std::string name;
  std::vector<Level> levels;  // innermost first; at least one
  std::vector<DeviceKind> kinds;
  std::vector<int32_t> kind_of_device;  // index in `kinds`

  int32_t device_count() const { return static_cast<int32_t>(kind_of_device.size()); }
  const DeviceKind& device(int32_t index) const { return kinds[kind_of_device[index]]; }
  // Devices in one unit of levels 0 to `level`.
  int64_t devices_in(int32_t level) const;
  int64_t smallest_memory() const;
  // The part of the work for each device, in proportion to the matrix products that it does in a second
  // (bf16); sums to 1. Equal parts where all devices are of one kind.
  std::vector<double> shares() const;

  // A cluster of equal devices that takes as long and holds as much when work is shared by `shares`: rates of
  // arithmetic are the mean, memory and its rate what the device that is worst off for its share has. The
  // same where all are of one kind.
  Cluster evened() const;

  bool operator==(const Cluster& other) const;
};

inline constexpr int32_t kMostDevices = 1 << 20;

// Reads `NAME:DEVICES_PER_HOST` or `NAME:DEVICES_PER_HOSTxHOSTS` (`h200:8`, `a100-80:8x16`, `cpu:4`), the
// path of a JSON file (what holds a `/` or ends in `.json`), or JSON (what starts with `{`). The format:
// docs/clusters.md. Throws Error(Phase::kConfig), naming the field and what would work.
Cluster parse_cluster(std::string_view text);

// As parse_cluster, for one of the three. These two read no file.
Cluster named_cluster(std::string_view name);
Cluster parse_cluster_json(std::string_view json);

// JSON that parse_cluster reads back as an equal cluster.
std::string print_json(const Cluster& cluster);

// ---- Profiles: figures published for devices and their usual links (profiles.cpp)

struct Profile {
  DeviceKind device;
  Level package;             // of several devices; size 1 where a package holds one
  Level host;                // in a host; its size says how many there usually are
  Level network;             // across hosts; its size is not used
  int32_t joined_hosts = 1;  // how many hosts the links of `host` span
};

// Ordered by name. Built on first use; safe from any thread.
const std::vector<Profile>& profiles();
// Null when the name is unknown.
const Profile* find_profile(std::string_view name);
// "a100-40, a100-80, …", for messages.
std::string profile_names();

}  // namespace moai::plan
