// Figures of devices and links as published; docs/clusters.md says where each comes from, row by row.
//
// What no source gave is 0 (a rate, see DeviceKind::flops) or one of the k…Assumed below. None of these is
// measured on the user's machine: for that, calibrate and write the cluster as JSON.

#include <algorithm>
#include <string>
#include <utility>

#include "plan/cluster/cluster.h"

namespace moai::plan {

namespace {

constexpr double kTera = 1e12;
constexpr double kGiga = 1e9;
constexpr double kMicro = 1e-6;
constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;

// What is left of the nominal memory, taken as GiB, after driver and context: an 80 GB H100 offers some
// 78 GiB, a 141 GB H200 some 139.
constexpr double kMemoryLeft = 0.98;

// One NDR NIC of 400 Gb/s delivers 47 GB/s (H100, p2p of 2 nodes): 0.94 of its 50.
constexpr double kNicEfficiency = 0.94;

// No table has the gap between two kernels.
constexpr double kOpOverheadAssumed = 2 * kMicro;
// What attention reaches of the peak in 16 bits; docs/clusters.md says by which kernels. Of forward and
// backward, but H100's, which is forward's.
constexpr double kAttentionA100 = 0.55, kAttentionH100 = 328.0 / 989.0, kAttentionAda = 109.8 / 165.2,
                 kAttentionBlackwell = 0.40;
// For devices whose copies were not found: the mean of A100 (1610 of 2039 GB/s), H100 (2900 of 3350)
// and H200 (4010 of 4800).
constexpr double kMemoryAssumed = 0.83;
// For NVIDIA devices whose products were not found: H100's.
constexpr double kGemmAssumed = 794.5 / 989.0;
// Links across hosts of devices for which no usual NIC is known.
constexpr double kNicGbpsAssumed = 10;

// The link to the host: GB/s as copies of pinned memory reach them, device to host where the two directions
// differ. A100, H200 and GB200 are measured; others count as what has their link.
constexpr double kPcie3 = 13, kPcie4 = 26, kPcie5 = 55, kChipToChip = 193;
// Of its host's memory, for each device: none of these is the device's, and hosts differ.
constexpr double kHostGbAssumed = 128;

// One row of the hardware table: TFLOP/s, GB, GB/s, Gb/s. 0 where the table has no figure.
struct Row {
  const char* name;
  double memory_gb;
  double bf16, fp16, fp8, tf32, fp32;
  double gemm_efficiency;
  double memory_gbs;
  double memory_efficiency;
  int32_t per_host;
  double nic_gbps;
};

DeviceKind device(const Row& row) {
  DeviceKind kind;
  kind.name = row.name;
  kind.memory_bytes = static_cast<int64_t>(row.memory_gb * kMemoryLeft * kGiB);
  kind.flops_fp32 = row.fp32 * kTera;
  kind.flops_tf32 = row.tf32 * kTera;
  kind.flops_bf16 = row.bf16 * kTera;
  kind.flops_fp16 = row.fp16 * kTera;
  kind.flops_fp8 = row.fp8 * kTera;
  kind.memory_bytes_per_s = row.memory_gbs * kGiga;
  kind.op_overhead_s = kOpOverheadAssumed;
  kind.gemm_efficiency = row.gemm_efficiency;
  kind.memory_efficiency = row.memory_efficiency;
  return kind;
}

// Latencies are fitted to measured all-reduces: docs/clusters.md. Other links inside a host count as
// NVLink 4, for which there are most rows.
constexpr double kHostStart = 20 * kMicro;
constexpr double kHostLatency = 1.5 * kMicro;

Level inside(const char* name, double gbs, double pair_gbs, double switch_gbs,
             double latency_s = kHostLatency) {
  Level level;
  level.name = name;
  level.latency_s = latency_s;
  level.start_s = kHostStart;
  level.bytes_per_s = gbs * kGiga;
  level.pair_bytes_per_s = pair_gbs * kGiga;
  level.switch_reduce_bytes_per_s = switch_gbs * kGiga;
  return level;
}

// Rates are what rings reach in measured rows, pairs what one copy reaches, the switch the all-reduced
// bytes/s of NVLS (which does not depend on the number of GPUs).
// 6 links of 25 GB/s, by A100's 232 of 300; twice NVLink 3's latency, as that is about twice NVLink 4's.
Level nvlink2() { return inside("NVLink", 116, 38.7, 0, 7 * kMicro); }
Level nvlink3() { return inside("NVLink", 232, 274, 0, 3.5 * kMicro); }  // A100, 8 GPUs; p2p 274
Level nvlink4() { return inside("NVLink", 365, 376, 274); }  // H200 Ring; H100 p2p; H100 all-reduce of 16 GiB
Level nvlink5() {
  return inside("NVLink", 680, 746, 479, 4 * kMicro);
}  // B200 Ring; GB200 p2p; B200 NVLS of 8 GiB
Level pcie4() { return inside("PCIe", 20, 0, 0); }             // A100 PCIe, across sockets
Level pcie5() { return inside("PCIe", 28, 0, 0); }             // RTX 5090, 8 of them
Level mi300_mesh() { return inside("xGMI", 312.9, 47.7, 0); }  // MI300X, 8 and 2 GPUs
// No collective was found for these; peaks of the links times MI300X's 312.9 of 448.
Level mi250_card() { return inside("xGMI", 300 * 0.70, 100 * 0.70, 0); }
Level mi250_gcd() { return inside("xGMI", 150 * 0.70, 50 * 0.70, 0); }
Level mi250x_gcd() { return inside("xGMI", 175 * 0.70, 50 * 0.70, 0); }
Level mi250_package() { return inside("in-package xGMI", 200 * 0.70, 0, 0); }

// EFA's latencies are fitted to 4 hosts of B200, the others' to H100, H20 and A100 on InfiniBand.
Level across(const char* name, double gbps) {
  const bool is_efa = std::string(name) == "EFA";
  Level level;
  level.name = name;
  level.latency_s = (is_efa ? 12 : 10) * kMicro;
  level.start_s = (is_efa ? 250 : 20) * kMicro;
  level.bytes_per_s = (gbps > 0 ? gbps : kNicGbpsAssumed) / 8 * kNicEfficiency * kGiga;
  return level;
}

double host_link(const std::string& name) {
  const auto is = [&](const char* family) { return name.rfind(family, 0) == 0; };
  if (is("v100")) return kPcie3;
  if (is("gb")) return kChipToChip;
  return is("h100") || is("h200") || is("b200") || is("b300") || is("mi3") ? kPcie5 : kPcie4;
}

// Others count as H100.
double attention(const std::string& name) {
  const auto is = [&](const char* family) { return name.rfind(family, 0) == 0; };
  if (is("a100")) return kAttentionA100;
  if (is("rtx4090")) return kAttentionAda;
  return is("b200") || is("b300") || is("gb") ? kAttentionBlackwell : kAttentionH100;
}

Profile profile(const Row& row, Level host, const char* network) {
  Profile made{device(row), Level(), std::move(host), across(network, row.nic_gbps)};
  made.device.attention_efficiency = attention(row.name);
  made.device.host_bytes_per_s = host_link(row.name) * kGiga;
  made.device.host_memory_bytes = kHostGbAssumed * kGiga;
  made.host.size = row.per_host;
  return made;
}

Profile in_packages(Profile profile, Level package) {
  profile.package = std::move(package);
  profile.package.size = 2;
  return profile;
}

// An NVL72 domain: 18 trays of 4.
Profile joined(Profile profile) {
  profile.joined_hosts = 18;
  return profile;
}

// Virtual devices that share one machine's cores and memory. No machine's figures: calibrate.
Profile cpu() {
  Profile made = profile({"cpu", 8, 0, 0, 0, 0, 0.1, 0.8, 20, 0.8, 1, 10}, inside("shared memory", 10, 0, 0),
                         "Ethernet");
  made.device.op_overhead_s = 5 * kMicro;
  // Host and devices are one memory, and the cores that copy do nothing else then.
  made.device.host_bytes_per_s = 5 * kGiga;
  made.device.host_memory_bytes = 8 * kGiga;
  made.device.host_overlap = 0;
  made.host.start_s = 10 * kMicro;
  made.host.latency_s = 2 * kMicro;
  return made;
}

constexpr double kGemmA100 = 271.2 / 312;
constexpr double kGemmA100Pcie = 252.9 / 312;
constexpr double kGemmB200 = 1745.0 / 2250;
constexpr double kGemmB300 = 1769.0 / 2250;
constexpr double kGemmGb200 = 1822.0 / 2500;  // GB300's too: none was found
constexpr double kGemmMi300 = 668.4 / 1307;   // MI250's too: none was found
constexpr double kGemmMi325 = 784.9 / 1307;
constexpr double kGemmL40s = 230.0 / 362;
// llmq trains whole models at 0.81 to 0.83 of an RTX 4090's nominal peaks, which are of a lower clock than it
// runs at.
constexpr double kGemmRtx = 0.95;
constexpr double kCopyA100 = 1610.0 / 2039;
constexpr double kCopyH100 = 2900.0 / 3350;
constexpr double kCopyH200 = 4010.0 / 4800;

std::vector<Profile> all() {
  constexpr double kG = kGemmAssumed;
  constexpr double kM = kMemoryAssumed;
  const char* const ib = "InfiniBand";
  const char* const roce = "RoCE";
  const char* const ethernet = "Ethernet";
  // Each line is the row of the hardware table that the comment names.
  // clang-format off
  std::vector<Profile> all = {
      // name, GB; bf16, fp16, fp8, tf32, fp32; gemm; GB/s; copy; per host, NIC
      profile({"v100", 16, 0, 125, 0, 0, 15.7, kG, 900, kM, 8, 3.125}, nvlink2(), ethernet),              // V100-SXM2-16GB
      profile({"v100-32", 32, 0, 125, 0, 0, 15.7, kG, 900, kM, 4, 0}, nvlink2(), ethernet),               // V100-SXM2-32GB
      profile({"a100-40", 40, 312, 312, 0, 156, 19.5, kGemmA100, 1555, kCopyA100, 8, 200}, nvlink3(), ib),  // A100-SXM-40GB
      profile({"a100-80", 80, 312, 312, 0, 156, 19.5, kGemmA100, 2039, kCopyA100, 8, 200}, nvlink3(), ib),  // A100-SXM-80GB
      profile({"a100-pcie-40", 40, 312, 312, 0, 156, 19.5, kGemmA100Pcie, 1555, kM, 8, 0}, pcie4(), ethernet),  // A100-PCIe-40GB
      profile({"a100-pcie-80", 80, 312, 312, 0, 156, 19.5, kGemmA100Pcie, 1940, kM, 8, 0}, pcie4(), ethernet),  // A100-PCIe-80GB
      profile({"h100", 80, 989, 989, 1979, 494.5, 67, kG, 3350, kCopyH100, 8, 400}, nvlink4(), ib),       // H100-SXM-80GB
      profile({"h100-96", 96, 989, 989, 1979, 494.5, 67, kG, 2400, kM, 8, 400}, nvlink4(), roce),         // H100-SXM-96GB-HBM2e
      profile({"h100-pcie", 80, 756, 756, 1513, 378, 51, kG, 2000, kM, 8, 0}, pcie5(), ethernet),         // H100-PCIe-80GB
      profile({"h200", 141, 989, 989, 1979, 494.5, 67, kG, 4800, kCopyH200, 8, 400}, nvlink4(), ib),      // H200-SXM
      profile({"b200", 180, 2250, 2250, 4500, 1125, 80, kGemmB200, 8000, kM, 8, 400}, nvlink5(), "EFA"),  // B200
      profile({"b300", 288, 2250, 2250, 4500, 1125, 80, kGemmB300, 8000, kM, 8, 800}, nvlink5(), "EFA"),  // B300
      joined(profile({"gb200", 186, 2500, 2500, 5000, 1250, 80, kGemmGb200, 8000, kM, 4, 400}, nvlink5(), ib)),  // GB200
      joined(profile({"gb300", 288, 2500, 2500, 5000, 1250, 80, kGemmGb200, 8000, kM, 4, 800}, nvlink5(), ib)),  // GB300
      profile({"mi250", 128, 362, 362, 0, 0, 45.3, kGemmMi300, 3280, kM, 4, 200}, mi250_card(), ib),      // MI250
      in_packages(profile({"mi250-gcd", 64, 181, 181, 0, 0, 22.6, kGemmMi300, 1640, kM, 8, 100},
                          mi250_gcd(), ib), mi250_package()),                                            // MI250-GCD
      in_packages(profile({"mi250x-gcd", 64, 191.5, 191.5, 0, 0, 23.95, kGemmMi300, 1640, kM, 8, 100},
                          mi250x_gcd(), "Slingshot"), mi250_package()),                                  // MI250X-GCD
      profile({"mi300x", 192, 1307, 1307, 2610, 653.7, 163.4, kGemmMi300, 5300, kM, 8, 400}, mi300_mesh(), roce),  // MI300X
      profile({"mi325x", 256, 1307, 1307, 2610, 653.7, 163.4, kGemmMi325, 6000, kM, 8, 400}, mi300_mesh(), roce),  // MI325X
      profile({"rtx3090", 24, 71, 71, 0, 35.6, 35.6, kGemmRtx, 936, kM, 1, 0}, pcie4(), ethernet),              // RTX3090
      profile({"rtx4090", 24, 165.2, 165.2, 330.3, 82.6, 82.6, kGemmRtx, 1008, kM, 1, 0}, pcie4(), ethernet),   // RTX4090
      profile({"l40s", 48, 362, 362, 733, 183, 91.6, kGemmL40s, 864, kM, 1, 0}, pcie4(), ethernet),       // L40S
      profile({"a10g", 24, 0, 0, 0, 0, 31.5, kG, 600, kM, 1, 0}, pcie4(), ethernet),                      // A10G
      cpu(),
  };
  // clang-format on
  std::sort(all.begin(), all.end(),
            [](const Profile& a, const Profile& b) { return a.device.name < b.device.name; });
  return all;
}

}  // namespace

const std::vector<Profile>& profiles() {
  static const std::vector<Profile> kProfiles = all();
  return kProfiles;
}

const Profile* find_profile(std::string_view name) {
  for (const Profile& profile : profiles()) {
    if (profile.device.name == name) return &profile;
  }
  return nullptr;
}

std::string profile_names() {
  std::string names;
  for (const Profile& profile : profiles()) names += (names.empty() ? "" : ", ") + profile.device.name;
  return names;
}

}  // namespace moai::plan
