#include "plan/cluster/collectives.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <map>
#include <random>
#include <sstream>

#include "catch.h"

namespace moai::plan {
namespace {

constexpr Collective kCollectives[] = {Collective::kAllReduce,     Collective::kAllGather,
                                       Collective::kReduceScatter, Collective::kAllToAll,
                                       Collective::kBroadcast,     Collective::kSendReceive};
constexpr Algorithm kAlgorithms[] = {Algorithm::kDirect, Algorithm::kRing, Algorithm::kTree,
                                     Algorithm::kHierarchical, Algorithm::kSwitch};
constexpr double kMiB = 1024 * 1024;

const char* const kClusters[] = {
    "cpu:4",      "h200:8",        "h100:8x8",       "a100-80:8x16", "a100-pcie-40:4x3",
    "gb200:4x36", "mi250-gcd:8x4", "mi250x-gcd:8x3", "mi300x:8x2",   "b200:8x1024"};

Group whole(const Cluster& cluster) { return axis_group(cluster, 1, cluster.device_count()); }

// The whole cluster, and every group of a power of two of members at a stride of one.
std::vector<Group> groups(const Cluster& cluster) {
  std::vector<Group> groups{whole(cluster)};
  for (int64_t stride = 1; stride < cluster.device_count(); stride *= 2) {
    for (int64_t size = 1; stride * size <= cluster.device_count(); size *= 2) {
      groups.push_back(axis_group(cluster, stride, size));
    }
  }
  return groups;
}

void for_each_group(const std::function<void(const Cluster&, const Group&)>& check) {
  for (const char* name : kClusters) {
    const Cluster cluster = parse_cluster(name);
    for (const Group& group : groups(cluster)) {
      INFO(name << ", members " << group.members());
      check(cluster, group);
    }
  }
}

TEST_CASE("more_bytes_never_take_less") {
  for_each_group([](const Cluster& cluster, const Group& group) {
    for (const Collective collective : kCollectives) {
      double least = 0;
      for (double bytes = 0; bytes < 1e12; bytes = std::max(1.0, bytes * 1.3)) {
        const double time = seconds(cluster, collective, group, bytes);
        REQUIRE(std::isfinite(time));
        REQUIRE(time >= least);
        least = time;
      }
    }
  });
}

TEST_CASE("a_group_of_one_takes_no_time") {
  const Cluster cluster = parse_cluster("h100:8x8");
  for (const Collective collective : kCollectives) {
    for (const Group& group : {Group{}, Group{{1, 1}, {}}, axis_group(cluster, 8, 1)}) {
      const Estimate found = estimate(cluster, collective, group, kMiB);
      CHECK(found.seconds == 0);
      CHECK(found.algorithm == Algorithm::kNone);
    }
  }
}

TEST_CASE("the_estimate_is_the_cheapest_algorithm") {
  for_each_group([](const Cluster& cluster, const Group& group) {
    if (group.members() == 1) return;
    for (const Collective collective : kCollectives) {
      const Estimate found = estimate(cluster, collective, group, 64 * kMiB);
      CHECK(seconds_by(found.algorithm, cluster, collective, group, 64 * kMiB) == found.seconds);
      for (const Algorithm algorithm : kAlgorithms) {
        CHECK(seconds_by(algorithm, cluster, collective, group, 64 * kMiB) >= found.seconds);
      }
    }
  });
}

TEST_CASE("an_all_reduce_is_between_its_halves_and_their_sum") {
  for_each_group([](const Cluster& cluster, const Group& group) {
    if (group.members() == 1) return;
    for (double bytes = 1; bytes < 1e12; bytes *= 7) {
      const auto best = [&](Collective collective) { return seconds(cluster, collective, group, bytes); };
      REQUIRE(best(Collective::kAllReduce) >= best(Collective::kReduceScatter));
      const auto ring = [&](Collective c) { return seconds_by(Algorithm::kRing, cluster, c, group, bytes); };
      const double start = ring(Collective::kAllReduce) -
                           2 * (ring(Collective::kAllReduce) - ring(Collective::kReduceScatter));
      REQUIRE(ring(Collective::kReduceScatter) + ring(Collective::kAllGather) >=
              ring(Collective::kAllReduce) * (1 - 1e-12));
      REQUIRE(start >= 0);  // the two halves start twice, the whole once
      REQUIRE(best(Collective::kAllReduce) <=
              ring(Collective::kReduceScatter) + ring(Collective::kAllGather));
    }
  });
}

TEST_CASE("hierarchical_beats_a_ring_across_slow_hosts") {
  for (const char* name : {"a100-80:8x16", "v100:8x4", "h100:8x64", "mi300x:8x16"}) {
    const Cluster cluster = parse_cluster(name);
    for (const double bytes : {1e4, 1e6, 1e7}) {
      CHECK(seconds_by(Algorithm::kHierarchical, cluster, Collective::kAllReduce, whole(cluster), bytes) <
            seconds_by(Algorithm::kRing, cluster, Collective::kAllReduce, whole(cluster), bytes));
    }
  }
  // Where the network is what binds, it wins at every size: it sends (h-1)/h and not (n-1)/n of a part.
  const Cluster slow = parse_cluster("v100:8x2");
  const Estimate large = estimate(slow, Collective::kAllReduce, whole(slow), 1e9);
  CHECK(large.algorithm == Algorithm::kHierarchical);
  CHECK(large.seconds < 0.7 * seconds_by(Algorithm::kRing, slow, Collective::kAllReduce, whole(slow), 1e9));
}

TEST_CASE("each_device_has_its_own_part_of_the_network") {
  const Cluster cluster = parse_cluster("h100:8x8");
  // Eight groups across hosts at a time are what one is: a NIC each.
  const Group across = axis_group(cluster, 8, 8);
  CHECK(across.sizes == std::vector<int32_t>{1, 8});
  const double alone = seconds(cluster, Collective::kAllGather, across, 1e9);
  Group shared = across;
  shared.sharing = {1, 2};
  CHECK(seconds(cluster, Collective::kAllGather, shared, 1e9) == Approx(2 * alone).epsilon(0.05));
  // All 64 at once use eight NICs a host: a ring of eight members on one NIC each is far slower.
  CHECK(seconds(cluster, Collective::kAllGather, whole(cluster), 1e9) < alone / 4);
}

TEST_CASE("links_from_pair_to_pair_serve_two_devices_badly") {
  const Cluster mesh = parse_cluster("mi300x:8");
  const auto rate = [&](int64_t members) {
    return 1e9 /
           seconds_by(Algorithm::kRing, mesh, Collective::kAllReduce, axis_group(mesh, 1, members), 1e9);
  };
  CHECK(rate(2) < rate(8) / 3);
}

TEST_CASE("axis_group_spans_levels") {
  const Cluster cluster = parse_cluster("mi250-gcd:8x4");  // 2 in a card, 4 cards, 4 hosts
  struct Row {
    int64_t stride, size;
    std::vector<int32_t> sizes;
  };
  const Row rows[] = {{1, 32, {2, 4, 4}}, {1, 2, {2, 1, 1}}, {1, 4, {2, 2, 1}}, {2, 4, {1, 4, 1}},
                      {4, 4, {1, 2, 2}},  {8, 4, {1, 1, 4}}, {2, 8, {1, 4, 2}}, {1, 1, {1, 1, 1}},
                      {16, 2, {1, 1, 2}}, {1, 3, {2, 2, 1}}};
  for (const Row& row : rows) {
    INFO(row.stride << ", " << row.size);
    CHECK(axis_group(cluster, row.stride, row.size).sizes == row.sizes);
  }
}

TEST_CASE("wrong_groups_are_our_own_bugs") {
  const Cluster cluster = parse_cluster("h100:8");
  const auto time = [&](const Group& group, double bytes) {
    return seconds(cluster, Collective::kAllReduce, group, bytes);
  };
  CHECK_THROWS_AS(time({{8}, {}}, -1), std::logic_error);
  CHECK_THROWS_AS(time({{0}, {}}, 1), std::logic_error);
  CHECK_THROWS_AS(time({{8}, {0}}, 1), std::logic_error);
  CHECK_THROWS_AS(time({{8, 2}, {}}, 1), std::logic_error);
}

// ---- Against measurements

struct Measured {
  Cluster cluster;
  Collective collective;
  Group group;
  double bytes;
  double seconds;
  std::string algorithm;
  std::string family;  // device and shape
};

std::vector<Measured> measurements() {
  std::ifstream file(std::string(MOAI_TEST_CASES) + "/collectives/measured.csv");
  std::vector<Measured> rows;
  for (std::string line; std::getline(file, line);) {
    if (line[0] == '#') continue;
    std::vector<std::string> cells;
    std::istringstream stream(line);
    for (std::string cell; std::getline(stream, cell, ',');) cells.push_back(cell);
    REQUIRE(cells.size() == 9);
    Measured row;
    const int hosts = std::stoi(cells[1]);
    const int per_host = std::stoi(cells[2]);
    // Hosts are as large as usual, of which some devices take part.
    const int host = std::max(find_profile(cells[0])->host.size, per_host);
    row.cluster = parse_cluster(cells[0] + ":" + std::to_string(host) + "x" + std::to_string(hosts));
    row.group = axis_group(row.cluster, 1, per_host);
    if (hosts > 1) row.group.sizes.back() = hosts;
    if (const double gbps = std::stod(cells[3]); gbps > 0) {
      row.cluster.levels.back().bytes_per_s = gbps / 8 * 0.94e9;
    }
    for (const Collective collective : kCollectives) {
      if (collective_name(collective) == cells[4]) row.collective = collective;
    }
    // nccl-tests' size of an all-to-all is that of one rank.
    row.bytes = std::stod(cells[5]) * (row.collective == Collective::kAllToAll ? hosts * per_host : 1);
    row.seconds = std::stod(cells[6]) * 1e-6;
    row.algorithm = cells[7];
    row.family = cells[0] + " " + cells[1] + "x" + cells[2];
    rows.push_back(row);
  }
  return rows;
}

double predicted(const Measured& row) {
  if (row.algorithm == "ring") {
    return seconds_by(Algorithm::kRing, row.cluster, row.collective, row.group, row.bytes);
  }
  return seconds(row.cluster, row.collective, row.group, row.bytes);
}

double quantile(std::vector<double> values, double part) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(part * static_cast<double>(values.size() - 1))];
}

// The numbers of docs/clusters.md; `moai_tests collectives_fit_measurements -s` prints them.
TEST_CASE("collectives_fit_measurements") {
  const std::vector<Measured> rows = measurements();
  REQUIRE(rows.size() > 200);
  std::vector<double> errors;
  std::map<std::string, std::vector<double>> by_family;
  for (const Measured& row : rows) {
    errors.push_back(std::abs(predicted(row) / row.seconds - 1));
    by_family[row.family].push_back(predicted(row) / row.seconds - 1);
  }
  std::ostringstream report;
  report << rows.size() << " rows: median error " << quantile(errors, 0.5) << ", 90 % below "
         << quantile(errors, 0.9) << "\n";
  for (const auto& [family, of_family] : by_family) {
    report << "  " << family << ", " << of_family.size() << ": from " << quantile(of_family, 0) << " to "
           << quantile(of_family, 1) << ", median " << quantile(of_family, 0.5) << "\n";
  }
  INFO(report.str());
  CHECK(quantile(errors, 0.5) < 0.06);
  CHECK(quantile(errors, 0.9) < 0.40);
}

}  // namespace
}  // namespace moai::plan
