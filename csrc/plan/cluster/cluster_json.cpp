// Clusters as JSON; docs/clusters.md describes the format. What is read and what is printed are the same
// tables of fields.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ir/error.h"
#include "plan/cluster/cluster.h"
#include "plan/cluster/json.h"

namespace moai::plan {

namespace {

// Rates far beyond these are mistakes, and would overflow what is computed with them.
constexpr double kLeastPositive = 1e-9;
constexpr double kMost = 1e24;
constexpr int64_t kMostMemory = 1'000'000'000'000'000;  // bytes: whole numbers up to here are exact

enum class Must { kBePositive, kNotBeNegative, kBeFraction, kBePart };

template <typename Of>
struct Field {
  const char* name;
  double Of::*member;
  Must must;
  bool is_optional;
};

constexpr Field<DeviceKind> kDeviceFields[] = {
    {"flops_fp32", &DeviceKind::flops_fp32, Must::kBePositive, false},
    {"flops_tf32", &DeviceKind::flops_tf32, Must::kNotBeNegative, true},
    {"flops_bf16", &DeviceKind::flops_bf16, Must::kNotBeNegative, true},
    {"flops_fp16", &DeviceKind::flops_fp16, Must::kNotBeNegative, true},
    {"flops_fp64", &DeviceKind::flops_fp64, Must::kNotBeNegative, true},
    {"flops_fp8", &DeviceKind::flops_fp8, Must::kNotBeNegative, true},
    {"memory_bytes_per_s", &DeviceKind::memory_bytes_per_s, Must::kBePositive, false},
    {"op_overhead_s", &DeviceKind::op_overhead_s, Must::kNotBeNegative, true},
    {"gemm_efficiency", &DeviceKind::gemm_efficiency, Must::kBeFraction, true},
    {"attention_efficiency", &DeviceKind::attention_efficiency, Must::kBeFraction, true},
    {"memory_efficiency", &DeviceKind::memory_efficiency, Must::kBeFraction, true},
    {"overlap", &DeviceKind::overlap, Must::kBePart, true},
    {"host_bytes_per_s", &DeviceKind::host_bytes_per_s, Must::kNotBeNegative, true},
    {"host_memory_bytes", &DeviceKind::host_memory_bytes, Must::kNotBeNegative, true},
    {"host_overlap", &DeviceKind::host_overlap, Must::kBePart, true},
};

constexpr Field<Level> kLevelFields[] = {
    {"latency_s", &Level::latency_s, Must::kNotBeNegative, false},
    {"bytes_per_s", &Level::bytes_per_s, Must::kBePositive, false},
    {"start_s", &Level::start_s, Must::kNotBeNegative, true},
    {"pair_bytes_per_s", &Level::pair_bytes_per_s, Must::kNotBeNegative, true},
    {"switch_reduce_bytes_per_s", &Level::switch_reduce_bytes_per_s, Must::kNotBeNegative, true},
};

// A JSON object with the path to it, such as `levels[1]`.
class Fields {
 public:
  Fields(const Json& object, std::string path) : object_(object), path_(std::move(path)) {
    if (object.kind != Json::Kind::kObject) {
      fail(object, concat(path_, " must be an object, not ", kind_name(object.kind)));
    }
  }

  [[noreturn]] static void fail(const Json& at, const std::string& what, const std::string& hint = "") {
    Error error(Phase::kConfig, concat("cluster: ", what));
    error.detail(concat("at line ", at.line, ", column ", at.column));
    if (!hint.empty()) error.hint(hint);
    throw error;
  }

  std::string path(std::string_view field) const {
    return path_.empty() ? std::string(field) : concat(path_, ".", field);
  }

  const Json* find(std::string_view field) const { return object_.find(field); }

  // Null where the field is optional and missing.
  const Json* get(std::string_view field, Json::Kind kind, bool is_optional) const {
    const Json* value = find(field);
    if (!value && is_optional) return nullptr;
    if (!value)
      fail(object_, concat("field `", path(field), "` is missing"), concat("it must be ", kind_name(kind)));
    if (value->kind != kind) {
      fail(*value,
           concat("field `", path(field), "` must be ", kind_name(kind), ", not ", kind_name(value->kind)));
    }
    return value;
  }

  std::string text(std::string_view field, const std::string& otherwise = "") const {
    const Json* value = get(field, Json::Kind::kString, !otherwise.empty());
    return value ? value->text : otherwise;
  }

  double number(std::string_view field, Must must, const double* otherwise) const {
    const Json* value = get(field, Json::Kind::kNumber, otherwise);
    if (!value) return *otherwise;
    const double number = value->number;
    const auto check = [&](bool holds, const char* what) {
      if (!holds) fail(*value, concat("field `", path(field), "` ", what, ": ", json_number(number)));
    };
    check(number >= 0, "must not be negative");
    const bool may_be_zero = must == Must::kNotBeNegative || must == Must::kBePart;
    if (!may_be_zero) check(number >= kLeastPositive, "must be positive");
    if (must == Must::kBeFraction || must == Must::kBePart) check(number <= 1, "must be at most 1");
    check(number <= kMost, "is too large");
    return number;
  }

  int64_t integer(std::string_view field, int64_t most, const int64_t* otherwise) const {
    const Json* value = get(field, Json::Kind::kNumber, otherwise);
    if (!value) return *otherwise;
    return whole(*value, path(field), 1, most);
  }

  static int64_t whole(const Json& value, const std::string& path, int64_t least, int64_t most) {
    const double number = value.number;
    const bool is_whole = value.kind == Json::Kind::kNumber && std::floor(number) == number;
    if (is_whole && number >= static_cast<double>(least) && number <= static_cast<double>(most)) {
      return static_cast<int64_t>(number);
    }
    const std::string found = value.kind == Json::Kind::kNumber ? json_number(number) : kind_name(value.kind);
    fail(value,
         concat("field `", path, "` must be a whole number from ", least, " to ", most, ", not ", found));
  }

  template <typename Of, size_t n>
  void read(const Field<Of> (&fields)[n], Of* of, bool has_all) const {
    for (const Field<Of>& field : fields) {
      const double otherwise = of->*field.member;
      of->*field.member = number(field.name, field.must, field.is_optional || has_all ? &otherwise : nullptr);
    }
  }

  // A misspelt optional field would otherwise count as missing.
  void check_names(const std::vector<std::string_view>& known) const {
    for (const auto& [name, value] : object_.members) {
      if (std::find(known.begin(), known.end(), name) != known.end()) continue;
      std::string names;
      for (const std::string_view one : known) names += concat(names.empty() ? "" : ", ", one);
      fail(value, concat("unknown field `", path(name), "`"), concat("known fields: ", names));
    }
  }

 private:
  const Json& object_;
  std::string path_;
};

template <typename Of, size_t n>
std::vector<std::string_view> with_names(std::vector<std::string_view> names, const Field<Of> (&fields)[n]) {
  for (const Field<Of>& field : fields) names.push_back(field.name);
  return names;
}

const Profile& known_device(const Json& name, const std::string& path) {
  const Profile* profile = find_profile(name.text);
  if (!profile) {
    Fields::fail(name, concat("field `", path, "` names an unknown device `", name.text, "`"),
                 concat("known devices: ", profile_names()));
  }
  return *profile;
}

DeviceKind read_kind(const Json& json, const std::string& path) {
  if (json.kind == Json::Kind::kString) return known_device(json, path).device;
  const Fields fields(json, path);
  fields.check_names(with_names({"like", "name", "memory_bytes"}, kDeviceFields));
  DeviceKind kind;
  const Json* like = fields.get("like", Json::Kind::kString, true);
  if (like) kind = known_device(*like, fields.path("like")).device;
  kind.name = fields.text("name", kind.name);
  kind.memory_bytes = fields.integer("memory_bytes", kMostMemory, like ? &kind.memory_bytes : nullptr);
  fields.read(kDeviceFields, &kind, like != nullptr);
  return kind;
}

Level read_level(const Json& json, const std::string& path) {
  const Fields fields(json, path);
  fields.check_names(with_names({"name", "size"}, kLevelFields));
  Level level;
  level.name = fields.text("name");
  level.size = static_cast<int32_t>(fields.integer("size", kMostDevices, nullptr));
  fields.read(kLevelFields, &level, false);
  return level;
}

template <typename Of, size_t n>
void print_fields(const Field<Of> (&fields)[n], const Of& of, std::string* out) {
  for (const Field<Of>& field : fields)
    *out += concat(", \"", field.name, "\": ", json_number(of.*field.member));
}

}  // namespace

Cluster parse_cluster_json(std::string_view text) {
  const Json json = parse_json(text);
  const Fields fields(json, json.kind == Json::Kind::kObject ? "" : "the cluster");
  fields.check_names({"name", "levels", "kinds", "kind_of_device"});
  Cluster cluster;
  cluster.name = fields.text("name", "unnamed");

  const Json* levels = fields.get("levels", Json::Kind::kArray, false);
  if (levels->items.empty()) Fields::fail(*levels, "field `levels` must name at least one level");
  int64_t devices = 1;
  for (const Json& level : levels->items) {
    cluster.levels.push_back(read_level(level, concat("levels[", cluster.levels.size(), "]")));
    devices *= cluster.levels.back().size;
    if (devices > kMostDevices) {
      Fields::fail(level, concat("too many devices: the levels' sizes multiply to ", devices, " or more"),
                   concat("would fit: up to ", kMostDevices));
    }
  }

  const Json* kinds = fields.get("kinds", Json::Kind::kArray, false);
  if (kinds->items.empty()) Fields::fail(*kinds, "field `kinds` must name at least one kind of device");
  for (const Json& kind : kinds->items) {
    cluster.kinds.push_back(read_kind(kind, concat("kinds[", cluster.kinds.size(), "]")));
  }

  const Json* kind_of_device = fields.get("kind_of_device", Json::Kind::kArray, cluster.kinds.size() == 1);
  if (!kind_of_device) {
    cluster.kind_of_device.assign(devices, 0);
    return cluster;
  }
  if (static_cast<int64_t>(kind_of_device->items.size()) != devices) {
    Fields::fail(*kind_of_device, concat("field `kind_of_device` has ", kind_of_device->items.size(),
                                         " entries, and the levels' sizes multiply to ", devices));
  }
  for (const Json& kind : kind_of_device->items) {
    const std::string path = concat("kind_of_device[", cluster.kind_of_device.size(), "]");
    const auto last = static_cast<int64_t>(cluster.kinds.size()) - 1;
    cluster.kind_of_device.push_back(static_cast<int32_t>(Fields::whole(kind, path, 0, last)));
  }
  return cluster;
}

std::string print_json(const Cluster& cluster) {
  std::string out = concat("{\n  \"name\": ", json_string(cluster.name), ",\n  \"levels\": [");
  const char* separator = "\n    ";
  for (const Level& level : cluster.levels) {
    out += concat(separator, "{\"name\": ", json_string(level.name), ", \"size\": ", level.size);
    print_fields(kLevelFields, level, &out);
    out += "}";
    separator = ",\n    ";
  }
  out += "\n  ],\n  \"kinds\": [";
  separator = "\n    ";
  for (const DeviceKind& kind : cluster.kinds) {
    out +=
        concat(separator, "{\"name\": ", json_string(kind.name), ", \"memory_bytes\": ", kind.memory_bytes);
    print_fields(kDeviceFields, kind, &out);
    out += "}";
    separator = ",\n    ";
  }
  out += "\n  ]";
  if (cluster.kinds.size() > 1) {
    out += ",\n  \"kind_of_device\": [";
    separator = "";
    for (const int32_t kind : cluster.kind_of_device) {
      out += separator + std::to_string(kind);
      separator = ", ";
    }
    out += "]";
  }
  return out + "\n}\n";
}

}  // namespace moai::plan
