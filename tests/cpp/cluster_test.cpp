#include "plan/cluster/cluster.h"

#include <cstdio>
#include <fstream>
#include <numeric>
#include <utility>

#include "catch.h"
#include "ir/error.h"
#include "plan/cluster/json.h"

namespace moai::plan {
namespace {

std::string error_of(const std::string& text) {
  try {
    parse_cluster(text);
  } catch (const Error& error) {
    CHECK(error.phase() == Phase::kConfig);
    return error.what();
  }
  return "no error";
}

// A cluster as JSON with one part replaced.
std::string with(const std::string& part, const std::string& by) {
  std::string json = R"({"name": "two", "levels": [{"name": "link", "size": 2, "latency_s": 1e-6,
    "bytes_per_s": 1e9}], "kinds": [{"name": "one", "memory_bytes": 1000, "flops_fp32": 1e9,
    "memory_bytes_per_s": 1e9}]})";
  const size_t at = json.find(part);
  REQUIRE(at != std::string::npos);
  return json.replace(at, part.size(), by);
}

TEST_CASE("names_give_levels") {
  struct Row {
    const char* name;
    int32_t devices;
    const char* device;
    std::vector<std::pair<std::string, int32_t>> levels;
  };
  const Row rows[] = {
      {"h200:8", 8, "h200", {{"NVLink", 8}}},
      {"a100-80:8x16", 128, "a100-80", {{"NVLink", 8}, {"InfiniBand", 16}}},
      {"h100:8x8", 64, "h100", {{"NVLink", 8}, {"InfiniBand", 8}}},
      {"mi250:4x4", 16, "mi250", {{"xGMI", 4}, {"InfiniBand", 4}}},
      {"mi250-gcd:8x4", 32, "mi250-gcd", {{"in-package xGMI", 2}, {"xGMI", 4}, {"InfiniBand", 4}}},
      {"mi250x-gcd:8x2", 16, "mi250x-gcd", {{"in-package xGMI", 2}, {"xGMI", 4}, {"Slingshot", 2}}},
      {"mi250-gcd:3", 3, "mi250-gcd", {{"xGMI", 3}}},
      {"gb200:4x36", 144, "gb200", {{"NVLink", 72}, {"InfiniBand", 2}}},
      {"gb200:4x5", 20, "gb200", {{"NVLink", 20}}},
      {"h100:4x2", 8, "h100", {{"NVLink", 4}, {"InfiniBand", 2}}},
      {"h100:1x3", 3, "h100", {{"InfiniBand", 3}}},
      {"mi300x:8x2", 16, "mi300x", {{"xGMI", 8}, {"RoCE", 2}}},
      {"a100-pcie-80:4", 4, "a100-pcie-80", {{"PCIe", 4}}},
      {"cpu:4", 4, "cpu", {{"shared memory", 4}}},
      {"cpu:1", 1, "cpu", {{"shared memory", 1}}},
      {"b200:8x131072", 1 << 20, "b200", {{"NVLink", 8}, {"EFA", 131072}}},
  };
  for (const Row& row : rows) {
    INFO(row.name);
    const Cluster cluster = parse_cluster(row.name);
    CHECK(cluster.name == row.name);
    CHECK(cluster.device_count() == row.devices);
    CHECK(cluster.device(0).name == row.device);
    std::vector<std::pair<std::string, int32_t>> levels;
    for (const Level& level : cluster.levels) levels.emplace_back(level.name, level.size);
    CHECK(levels == row.levels);
    CHECK(cluster.devices_in(static_cast<int32_t>(levels.size()) - 1) == row.devices);
  }
}

TEST_CASE("a_card_is_two_halves") {
  const Cluster cards = parse_cluster("mi250:4");
  const Cluster halves = parse_cluster("mi250-gcd:8");
  CHECK(cards.smallest_memory() == Approx(128 * 0.98 * (1 << 30)));
  CHECK(cards.smallest_memory() == Approx(2 * halves.smallest_memory()));
  CHECK(cards.device(0).flops_bf16 == 2 * halves.device(0).flops_bf16);
}

TEST_CASE("every_profile_is_whole") {
  for (const Profile& profile : profiles()) {
    INFO(profile.device.name);
    CHECK(profile.device.memory_bytes > 0);
    CHECK(profile.device.flops_fp32 > 0);
    CHECK(profile.device.memory_bytes_per_s > 0);
    for (const double part : {profile.device.gemm_efficiency, profile.device.attention_efficiency,
                              profile.device.memory_efficiency}) {
      CHECK(part > 0);
      CHECK(part <= 1);
    }
    CHECK(profile.host.bytes_per_s > 0);
    CHECK(profile.network.bytes_per_s > 0);
    CHECK((profile.package.size == 1 || profile.package.bytes_per_s > 0));
    CHECK(find_profile(profile.device.name) == &profile);
    const Cluster cluster = parse_cluster(profile.device.name + ":8x4");
    CHECK(parse_cluster(print_json(cluster)) == cluster);
  }
}

TEST_CASE("unknown_rates_are_those_of_wider_types") {
  const DeviceKind& v100 = find_profile("v100")->device;  // no bf16, no fp8
  CHECK(v100.flops(ir::DType::kF16) == 125e12);
  CHECK(v100.flops(ir::DType::kBF16) == 15.7e12);
  CHECK(v100.flops(ir::DType::kF8E4M3FN) == 125e12);
  CHECK(v100.flops(ir::DType::kF64) == 15.7e12);
  const DeviceKind& h100 = find_profile("h100")->device;
  CHECK(h100.flops(ir::DType::kF32) == 67e12);
  CHECK(h100.flops(ir::DType::kBF16) == 989e12);
  CHECK(h100.flops(ir::DType::kF8E5M2) == 1979e12);
  CHECK(h100.flops(ir::DType::kI64) == 67e12);
}

TEST_CASE("work_is_shared_by_speed") {
  const Cluster mixed = parse_cluster(R"({"levels": [{"name": "link", "size": 3, "latency_s": 0,
    "bytes_per_s": 1e9}], "kinds": ["h100", {"like": "h100", "name": "slow", "flops_bf16": 494.5e12,
    "memory_bytes": 7}], "kind_of_device": [0, 1, 0]})");
  CHECK(mixed.shares() == std::vector<double>{0.4, 0.2, 0.4});
  CHECK(mixed.smallest_memory() == 7);
  CHECK(mixed.device(1).name == "slow");
  CHECK(mixed.device(1).flops_fp16 == 989e12);
  CHECK(parse_cluster(print_json(mixed)) == mixed);
  // Equal devices that do the same work: 2.5 of the fast ones' in three, and the memory of the worst off.
  const Cluster even = mixed.evened();
  CHECK(even.kinds.size() == 1);
  CHECK(even.device(1).flops_bf16 == Approx(989e12 * 2.5 / 3));
  CHECK(even.smallest_memory() == static_cast<int64_t>(7 / (0.2 * 3)));
  CHECK(parse_cluster("h100:8x3").evened() == parse_cluster("h100:8x3"));
  const std::vector<double> equal = parse_cluster("h100:8x3").shares();
  CHECK(std::accumulate(equal.begin(), equal.end(), 0.0) == Approx(1));
  CHECK(equal.front() == equal.back());
}

TEST_CASE("json_of_a_file_or_a_text") {
  const Cluster cluster = parse_cluster("h100:8x2");
  const std::string path = "cluster_test.json";
  std::ofstream(path) << print_json(cluster);
  CHECK(parse_cluster(path) == cluster);
  CHECK(parse_cluster("./" + path) == cluster);
  std::remove(path.c_str());
  CHECK(parse_cluster(" \n" + print_json(cluster)) == cluster);
  CHECK(parse_cluster(with("two", "a\\\"\\u00e9\\n\\ud83d\\ude00")).name == "a\"é\n😀");
  CHECK_THAT(print_json(parse_cluster(with("two", "\\u0001\\\\"))), ContainsSubstring(R"("\u0001\\")"));
  CHECK(parse_cluster(with("1e-6", "0")).levels[0].latency_s == 0);
}

TEST_CASE("wrong_names_say_what_would_work") {
  struct Row {
    const char* name;
    const char* says;
  };
  const Row rows[] = {
      {"", "the cluster's name is empty"},
      {"  ", "would work: NAME:DEVICES_PER_HOST"},
      {"h300:8", "unknown device `h300` in cluster `h300:8`"},
      {"h300:8", "known devices: a100-40, a100-80"},
      {":8", "unknown device ``"},
      {"h100", "would work: h100:8"},
      {"h100:", "devices per host must be a whole number from 1 up, not ``"},
      {"h100:0", "not `0`"},
      {"h100:-8", "not `-8`"},
      {"h100:8x", "hosts must be a whole number from 1 up, not ``"},
      {"h100:8x-1", "hosts must be a whole number from 1 up, not `-1`"},
      {"h100:8x2x2", "not `2x2`"},
      {"h100:8.5", "not `8.5`"},
      {"h100:8 x2", "not `8 `"},
      {"h100:1048577", "too many devices per host"},
      {"h100:99999999999999999999", "too many devices per host"},
      {"h100:1024x1025", "too many devices in cluster `h100:1024x1025`: 1049600"},
      {"h100:1024x1025", "would fit: up to 1048576 devices together"},
      {"no/such/file", "cannot read the cluster file `no/such/file`"},
      {"absent.json", "cannot read the cluster file `absent.json`"},
      {"./", "cannot read the cluster file `./`"},
  };
  for (const Row& row : rows) {
    INFO(row.name);
    CHECK_THAT(error_of(row.name), ContainsSubstring(row.says));
  }
}

TEST_CASE("wrong_json_names_the_field") {
  struct Row {
    const char* part;
    const char* by;
    const char* says;
  };
  const std::string deep(70, '[');
  const Row rows[] = {
      // Malformed.
      {"1e9}]}", "1e9}]", "expected `}`"},
      {"\"two\",", "\"two\"", "JSON line 1, column 16: expected `}`"},
      {"\"two\"", "two", "expected a JSON value"},
      {"1000", "01000", "a number does not start with 0"},
      {"1000", "1.", "expected a digit"},
      {"1000", "+1", "expected a JSON value"},
      {"1000", "1e999", "this number is out of range"},
      {"two", "t\\qo", "unknown escape"},
      {"two", "\\ud83d", "half a surrogate pair"},
      {"two", "\\u12g4", "\\u needs four hexadecimal digits"},
      {"two", "\t", "control characters in a string are escaped"},
      {"\"two\"", deep.c_str(), "values nest more than 64 deep"},
      {"{\"name\": \"two\"", "{\"name\": \"a\", \"name\": \"two\"", "field `name` is given twice"},
      {"1e9}]}", "1e9}]} 1", "expected the end of the JSON text"},
      // Missing.
      {"\"size\": 2, ", "", "field `levels[0].size` is missing"},
      {"\"latency_s\": 1e-6,", "", "field `levels[0].latency_s` is missing"},
      {"\"memory_bytes\": 1000, ", "", "field `kinds[0].memory_bytes` is missing"},
      {"\"memory_bytes\": 1000, ", "", "it must be a number"},
      {"\"levels\"", "\"level\"", "unknown field `level`"},
      {"\"levels\"", "\"level\"", "known fields: name, levels, kinds, kind_of_device"},
      {"latency_s", "latency", "known fields: name, size, latency_s, bytes_per_s"},
      {"\"kinds\"", "\"kinds\": [], \"x\"", "unknown field `x`"},
      // Wrong types and values.
      {"\"two\"", "2", "field `name` must be a string, not a number"},
      {"1000", "\"1000\"", "field `kinds[0].memory_bytes` must be a number, not a string"},
      {"1000", "-1000", "must be a whole number from 1 to 1000000000000000, not -1000"},
      {"1000", "0.5", "must be a whole number from 1 to 1000000000000000, not 0.5"},
      {"1e-6", "-1e-6", "field `levels[0].latency_s` must not be negative: -1e-06"},
      {"\"flops_fp32\": 1e9", "\"flops_fp32\": -1", "field `kinds[0].flops_fp32` must not be negative: -1"},
      {"\"flops_fp32\": 1e9", "\"flops_fp32\": 0", "field `kinds[0].flops_fp32` must be positive: 0"},
      {"\"flops_fp32\": 1e9", "\"flops_fp32\": 1e30", "field `kinds[0].flops_fp32` is too large: 1e+30"},
      {"\"name\": \"one\"", "\"name\": \"one\", \"overlap\": 1.5",
       "field `kinds[0].overlap` must be at most 1: 1.5"},
      {"\"name\": \"one\"", "\"name\": \"one\", \"host_overlap\": 2",
       "field `kinds[0].host_overlap` must be at most 1: 2"},
      {"\"name\": \"one\"", "\"name\": \"one\", \"host_bytes_per_s\": -1",
       "field `kinds[0].host_bytes_per_s` must not be negative: -1"},
      {"\"name\": \"one\"", "\"name\": \"one\", \"gemm_efficiency\": 1.5",
       "field `kinds[0].gemm_efficiency` must be at most 1: 1.5"},
      {"\"size\": 2", "\"size\": 0",
       "field `levels[0].size` must be a whole number from 1 to 1048576, not 0"},
      {"\"size\": 2", "\"size\": 2000000", "must be a whole number from 1 to 1048576, not 2e+06"},
      {"[{\"name\": \"one\"", "[7, {\"name\": \"one\"", "kinds[0] must be an object, not a number"},
      {"[{\"name\": \"one\"", "[\"h300\", {\"name\": \"one\"",
       "field `kinds[0]` names an unknown device `h300`"},
      {"\"name\": \"one\"", "\"like\": \"h300\"", "field `kinds[0].like` names an unknown device `h300`"},
      {"\"name\": \"one\"", "\"like\": \"h300\"", "known devices: a100-40, a100-80"},
      // Devices.
      {"\"kinds\"", "\"kind_of_device\": [0], \"kinds\"",
       "field `kind_of_device` has 1 entries, and the levels' sizes multiply to 2"},
      {"\"kinds\"", "\"kind_of_device\": [0, 1], \"kinds\"",
       "field `kind_of_device[1]` must be a whole number from 0 to 0, not 1"},
      {"\"kinds\"", "\"kind_of_device\": [0, -1], \"kinds\"", "whole number from 0 to 0, not -1"},
      {"\"kinds\": [", "\"kinds\": [\"cpu\", ", "field `kind_of_device` is missing"},
      {"[{\"name\": \"link\"",
       "[{\"name\": \"a\", \"size\": 1048576, \"latency_s\": 0, \"bytes_per_s\": 1}, {\"name\": \"link\"",
       "too many devices: the levels' sizes multiply to 2097152"},
  };
  for (const Row& row : rows) {
    INFO(row.part << " -> " << row.by);
    CHECK_THAT(error_of(with(row.part, row.by)), ContainsSubstring(row.says));
  }
  CHECK_THAT(error_of("{"), ContainsSubstring("expected the name of a field, in quotes"));
  CHECK_THAT(error_of("{\"name\""), ContainsSubstring("expected `:`"));
  CHECK_THAT(error_of("{\"name"), ContainsSubstring("this string has no end"));
  CHECK_THAT(error_of("{\"levels\": []}"), ContainsSubstring("must name at least one level"));
}

TEST_CASE("an_error_reads_whole") {
  CHECK(error_of(with("1e-6", "-1")) ==
        "moai config: cluster: field `levels[0].latency_s` must not be negative: -1\n"
        "  at line 1, column 69");
}

TEST_CASE("numbers_print_and_read_back") {
  for (const double number : {0.0, 1.0, 0.1, 1e-9, 989e12, 1.0 / 3, 5e-324, 1.7976931348623157e308}) {
    CHECK(parse_json(json_number(number)).number == number);
  }
}

}  // namespace
}  // namespace moai::plan
