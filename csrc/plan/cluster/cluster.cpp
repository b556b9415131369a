#include "plan/cluster/cluster.h"

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <fstream>
#include <initializer_list>
#include <limits>
#include <numeric>
#include <sstream>
#include <string>
#include <tuple>
#include <utility>

#include "ir/error.h"

namespace moai::plan {

namespace {

double first_known(std::initializer_list<double> rates) {
  for (const double rate : rates) {
    if (rate > 0) return rate;
  }
  return 0;
}

constexpr const char* kForms =
    "would work: NAME:DEVICES_PER_HOST or NAME:DEVICES_PER_HOSTxHOSTS as in h200:8 or a100-80:8x16, the path "
    "of "
    "a .json file, or JSON";

// A count in a cluster's name, such as the 8 and the 16 of `8x16`.
int32_t count(std::string_view digits, std::string_view field, std::string_view name) {
  int64_t number = 0;
  const char* begin = digits.data();
  const char* end = begin + digits.size();
  const auto read = std::from_chars(begin, end, number);
  if (read.ec == std::errc::result_out_of_range || number > kMostDevices) {
    throw Error(Phase::kConfig, concat("too many ", field, " in cluster `", name, "`"))
        .hint(concat("would fit: up to ", kMostDevices, " devices together"));
  }
  if (read.ec != std::errc() || read.ptr != end || number < 1) {
    throw Error(Phase::kConfig, concat("cluster `", name, "`: ", field,
                                       " must be a whole number from 1 up, not `", digits, "`"))
        .hint(kForms);
  }
  return static_cast<int32_t>(number);
}

// The most units of `hosts` that `span` hosts can be joined to, leaving none over.
int32_t joined(int32_t hosts, int32_t span) {
  int32_t size = std::min(hosts, span);
  while (hosts % size) --size;
  return size;
}

void add_level(std::vector<Level>* levels, Level level, int32_t size) {
  if (size == 1) return;
  level.size = size;
  levels->push_back(std::move(level));
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) {  // not opened, a folder, or empty
    throw Error(Phase::kConfig, concat("cannot read the cluster file `", path, "`")).hint(kForms);
  }
  return text.str();
}

}  // namespace

double DeviceKind::flops(ir::DType dtype) const {
  switch (dtype) {
    case ir::DType::kBF16: return first_known({flops_bf16, flops_fp32});
    case ir::DType::kF16: return first_known({flops_fp16, flops_fp32});
    case ir::DType::kF64:
    case ir::DType::kC128: return first_known({flops_fp64, flops_fp32});
    case ir::DType::kF8E5M2:
    case ir::DType::kF8E4M3FN:
    case ir::DType::kF8E5M2FNUZ:
    case ir::DType::kF8E4M3FNUZ: return first_known({flops_fp8, flops_fp16, flops_bf16, flops_fp32});
    default: return flops_fp32;
  }
}

bool DeviceKind::operator==(const DeviceKind& other) const {
  const auto fields = [](const DeviceKind& d) {
    return std::tie(d.name, d.memory_bytes, d.flops_fp32, d.flops_tf32, d.flops_bf16, d.flops_fp16,
                    d.flops_fp64, d.flops_fp8, d.memory_bytes_per_s, d.op_overhead_s, d.gemm_efficiency,
                    d.attention_efficiency, d.memory_efficiency, d.overlap, d.host_bytes_per_s,
                    d.host_memory_bytes, d.host_overlap);
  };
  return fields(*this) == fields(other);
}

bool Level::operator==(const Level& other) const {
  const auto fields = [](const Level& l) {
    return std::tie(l.name, l.size, l.start_s, l.latency_s, l.bytes_per_s, l.pair_bytes_per_s,
                    l.switch_reduce_bytes_per_s);
  };
  return fields(*this) == fields(other);
}

bool Cluster::operator==(const Cluster& other) const {
  return name == other.name && levels == other.levels && kinds == other.kinds &&
         kind_of_device == other.kind_of_device;
}

int64_t Cluster::devices_in(int32_t level) const {
  int64_t devices = 1;
  for (int32_t i = 0; i <= level; ++i) devices *= levels[i].size;
  return devices;
}

int64_t Cluster::smallest_memory() const {
  int64_t smallest = std::numeric_limits<int64_t>::max();
  std::vector<bool> used(kinds.size());
  for (const int32_t kind : kind_of_device) used[kind] = true;
  for (size_t i = 0; i < kinds.size(); ++i) {
    if (used[i]) smallest = std::min(smallest, kinds[i].memory_bytes);
  }
  return smallest;
}

Cluster Cluster::evened() const {
  if (kinds.size() == 1) return *this;
  const std::vector<double> parts = shares();
  const auto count = static_cast<double>(device_count());
  DeviceKind even;
  even.memory_bytes_per_s = std::numeric_limits<double>::infinity();
  even.memory_efficiency = 1;
  even.host_bytes_per_s = even.host_memory_bytes = std::numeric_limits<double>::infinity();
  auto memory = std::numeric_limits<double>::infinity();
  double reached = 0, attended = 0, rates = 0;
  for (int32_t d = 0; d < device_count(); ++d) {
    const DeviceKind& kind = device(d);
    const double share = parts[d] * count;
    memory = std::min(memory, static_cast<double>(kind.memory_bytes) / share);
    even.memory_bytes_per_s =
        std::min(even.memory_bytes_per_s, kind.memory_bytes_per_s * kind.memory_efficiency / share);
    even.op_overhead_s = std::max(even.op_overhead_s, kind.op_overhead_s);
    even.overlap = std::min(even.overlap, kind.overlap);
    even.host_bytes_per_s = std::min(even.host_bytes_per_s, kind.host_bytes_per_s / share);
    even.host_memory_bytes = std::min(even.host_memory_bytes, kind.host_memory_bytes / share);
    even.host_overlap = std::min(even.host_overlap, kind.host_overlap);
    even.flops_fp32 += kind.flops(ir::DType::kF32) / count;
    even.flops_bf16 += kind.flops(ir::DType::kBF16) / count;
    even.flops_fp16 += kind.flops(ir::DType::kF16) / count;
    even.flops_fp64 += kind.flops(ir::DType::kF64) / count;
    const double rate = kind.flops(ir::DType::kBF16);
    rates += rate;
    reached += rate * kind.gemm_efficiency;
    attended += rate * kind.attention_efficiency;
  }
  for (const auto& kind : kinds) even.name += (even.name.empty() ? "" : " and ") + kind.name;
  even.memory_bytes = static_cast<int64_t>(memory);
  even.gemm_efficiency = reached / rates;
  even.attention_efficiency = attended / rates;
  Cluster out = *this;
  out.kinds = {even};
  out.kind_of_device.assign(kind_of_device.size(), 0);
  return out;
}

std::vector<double> Cluster::shares() const {
  std::vector<double> rates;
  rates.reserve(kinds.size());
  for (const DeviceKind& kind : kinds) rates.push_back(kind.flops(ir::DType::kBF16) * kind.gemm_efficiency);
  std::vector<double> shares;
  shares.reserve(kind_of_device.size());
  for (const int32_t kind : kind_of_device) shares.push_back(rates[kind]);
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  for (double& share : shares) share /= sum;
  return shares;
}

Cluster named_cluster(std::string_view name) {
  const size_t colon = name.find(':');
  const std::string_view device = name.substr(0, colon);
  const Profile* profile = find_profile(device);
  if (!profile) {
    throw Error(Phase::kConfig, concat("unknown device `", device, "` in cluster `", name, "`"))
        .detail(concat("known devices: ", profile_names()))
        .hint(kForms);
  }
  if (colon == std::string_view::npos) {
    throw Error(Phase::kConfig, concat("cluster `", name, "` does not say how many devices a host has"))
        .hint(concat("would work: ", device, ":", profile->host.size));
  }
  const std::string_view counts = name.substr(colon + 1);
  const size_t times = counts.find('x');
  const int32_t per_host = count(counts.substr(0, times), "devices per host", name);
  const int32_t hosts = times == std::string_view::npos ? 1 : count(counts.substr(times + 1), "hosts", name);
  if (static_cast<int64_t>(per_host) * hosts > kMostDevices) {
    throw Error(Phase::kConfig,
                concat("too many devices in cluster `", name, "`: ", static_cast<int64_t>(per_host) * hosts))
        .hint(concat("would fit: up to ", kMostDevices, " devices together"));
  }

  Cluster cluster;
  cluster.name = std::string(name);
  cluster.kinds = {profile->device};
  cluster.kind_of_device.assign(static_cast<size_t>(per_host) * hosts, 0);
  const int32_t in_package = per_host % profile->package.size ? 1 : profile->package.size;
  const int32_t joined_hosts = joined(hosts, profile->joined_hosts);
  add_level(&cluster.levels, profile->package, in_package);
  add_level(&cluster.levels, profile->host, per_host / in_package * joined_hosts);
  add_level(&cluster.levels, profile->network, hosts / joined_hosts);
  if (cluster.levels.empty()) {  // one device
    cluster.levels.push_back(profile->host);
    cluster.levels.back().size = 1;
  }
  return cluster;
}

Cluster parse_cluster(std::string_view text) {
  const size_t start = text.find_first_not_of(" \t\r\n");
  if (start == std::string_view::npos)
    throw Error(Phase::kConfig, "the cluster's name is empty").hint(kForms);
  if (text[start] == '{') return parse_cluster_json(text);
  constexpr std::string_view kSuffix = ".json";
  const bool is_json_file =
      text.size() > kSuffix.size() && text.substr(text.size() - kSuffix.size()) == kSuffix;
  if (is_json_file || text.find('/') != std::string_view::npos) {
    return parse_cluster_json(read_file(std::string(text)));
  }
  return named_cluster(text);
}

}  // namespace moai::plan
