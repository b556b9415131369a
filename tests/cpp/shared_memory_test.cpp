#include "runtime/shared_memory.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "catch.h"
#include "plain_collectives.h"
#include "random_collective.h"
#include "threads.h"

namespace moai::runtime {
namespace {

using ir::DType;
using Kind = Collective::Kind;

std::vector<std::string> names(int count) {
  std::vector<std::string> all;
  for (int d = 0; d < count; ++d) all.push_back(concat("cpu:", d));
  return all;
}

std::vector<int> all_of(int count) {
  std::vector<int> devices(count);
  std::iota(devices.begin(), devices.end(), 0);
  return devices;
}

// What each member gives and gets in one collective of a group.
struct Exchange {
  Collective what;
  std::vector<Bytes> in;
  std::vector<Bytes> out;
  std::vector<Bytes> wanted;

  Exchange(const Collective& collective, int members, uint32_t seed) : what(collective) {
    for (int r = 0; r < members; ++r) {
      in.push_back(random_elements(what.dtype, what.in_elements(r), seed * 64 + r));
      out.emplace_back(what.out_elements(r) * ir::element_bytes(what.dtype), uint8_t{0xee});
    }
    wanted = plain_collective(what, in);
  }
  WorkPtr start(Communicator& group) {
    const int r = group.rank();
    return group.start(what, in[r].data(), out[r].data());
  }
  bool is_right(int rank) const { return out[rank] == wanted[rank]; }
};

constexpr Kind kOfAll[] = {Kind::kAllReduce, Kind::kAllGather, Kind::kReduceScatter, Kind::kAllToAll,
                           Kind::kBroadcast};
constexpr DType kTypes[] = {DType::kF32, DType::kF64, DType::kI64, DType::kI32, DType::kU8, DType::kBool};

TEST_CASE("every_collective_of_every_type_in_every_group_is_what_plain_code_says") {
  std::mt19937 random(7);
  for (int members = 1; members <= 8; ++members) {
    std::vector<Exchange> exchanges;
    for (const Kind kind : kOfAll) {
      for (const DType dtype : kTypes) {
        for (int times = 0; times < 6; ++times) {
          exchanges.emplace_back(random_collective(kind, dtype, members, random), members, random());
        }
      }
    }
    SharedMemory memory(names(members));
    std::vector<int> wrong(members, -1);
    in_threads(members, [&](int d) {
      const auto group = memory.join(all_of(members), d);
      for (size_t e = 0; e < exchanges.size(); ++e) {
        exchanges[e].start(*group)->wait();
        if (!exchanges[e].is_right(d) && wrong[d] < 0) wrong[d] = static_cast<int>(e);
      }
    });
    for (int d = 0; d < members; ++d) {
      INFO("device " << d << " of " << members << ": "
                     << (wrong[d] < 0 ? "" : exchanges[wrong[d]].what.str()));
      CHECK(wrong[d] == -1);
    }
  }
}

TEST_CASE("a_cut_of_the_inner_dim_interleaves") {
  const auto gather = Collective::all_gather(DType::kU8, {2, 3}, 1, {1, 2});
  CHECK(plain_collective(gather, {{1, 2}, {10, 20, 30, 40}})[0] == Bytes{1, 10, 20, 2, 30, 40});
  const auto exchange = Collective::all_to_all(DType::kU8, {2, 2}, {0, {1, 1}}, {1, {1, 1}});
  CHECK(plain_collective(exchange, {{1, 2}, {3, 4}}) == std::vector<Bytes>{{1, 3}, {2, 4}});
}

TEST_CASE("half_precision_and_complex_numbers_are_the_same_bits_on_every_device") {
  for (const DType dtype : {DType::kF16, DType::kBF16, DType::kC64}) {
    constexpr int kMembers = 3;
    const auto what = Collective::all_reduce(dtype, {100000}, Reduce::kSum);
    std::vector<Bytes> in;
    std::vector<Bytes> out;
    for (int r = 0; r < kMembers; ++r) {
      in.push_back(random_elements(dtype, what.in_elements(r), r));
      out.emplace_back(in.back().size());
    }
    SharedMemory memory(names(kMembers));
    in_threads(kMembers, [&](int d) {
      memory.join(all_of(kMembers), d)->start(what, in[d].data(), out[d].data())->wait();
    });
    CHECK(out[0] != in[0]);
    CHECK(out[1] == out[0]);
    CHECK(out[2] == out[0]);
  }
}

TEST_CASE("what_may_be_done_in_place_can_be") {
  constexpr int kMembers = 4;
  const std::vector<int64_t> parts{30000, 0, 70000, 2};
  std::vector<int64_t> starts(kMembers);
  std::partial_sum(parts.begin(), parts.end() - 1, starts.begin() + 1);
  const ir::Dims sizes{100002};
  const Collective rows[] = {
      Collective::all_reduce(DType::kI32, sizes, Reduce::kSum),
      Collective::all_gather(DType::kI32, sizes, 0, parts),
      Collective::reduce_scatter(DType::kI32, sizes, 0, parts, Reduce::kMax),
      Collective::broadcast(DType::kI32, sizes, 2),
  };
  for (const Collective& what : rows) {
    Exchange exchange(what, kMembers, 1);
    std::atomic<int> right{0};
    SharedMemory memory(names(kMembers));
    in_threads(kMembers, [&](int d) {
      // One buffer of the whole.
      Bytes whole(sizes[0] * 4);
      uint8_t* own = whole.data() + starts[d] * 4;
      const bool gathers = what.kind == Kind::kAllGather;
      uint8_t* in = gathers ? own : whole.data();
      uint8_t* out = what.kind == Kind::kReduceScatter ? own : whole.data();
      std::copy(exchange.in[d].begin(), exchange.in[d].end(), in);
      memory.join(all_of(kMembers), d)->start(what, in, out)->wait();
      right += std::equal(exchange.wanted[d].begin(), exchange.wanted[d].end(), out);
    });
    INFO(what.str());
    CHECK(right == kMembers);
  }
}

TEST_CASE("messages_between_two_ranks_arrive_in_order_and_apart_from_the_rest") {
  SharedMemory memory(names(3));
  std::vector<int32_t> got(4, -1);
  in_threads(3, [&](int d) {
    const auto group = memory.join({2, 0, 1}, d);  // ranks 1, 2, 0
    std::vector<WorkPtr> works;
    std::vector<int32_t> values{10 * d, 10 * d + 1, 10 * d + 2};
    if (d == 0) {
      for (int i = 0; i < 2; ++i) {
        works.push_back(group->start(Collective::send(DType::kI32, {1}, 2), &values[i], nullptr));
      }
      works.push_back(group->start(Collective::receive(DType::kI32, {1}, 0), nullptr, &got[2]));
    }
    if (d == 1) {
      for (int i = 0; i < 2; ++i) {
        works.push_back(group->start(Collective::receive(DType::kI32, {1}, 1), nullptr, &got[i]));
      }
    }
    if (d == 2) {
      works.push_back(group->start(Collective::send(DType::kI32, {1}, 1), &values[0], nullptr));
      // To itself.
      works.push_back(group->start(Collective::send(DType::kI32, {1}, 0), &values[1], nullptr));
      works.push_back(group->start(Collective::receive(DType::kI32, {1}, 0), nullptr, &got[3]));
    }
    works.push_back(group->start(Collective::barrier(), nullptr, nullptr));
    std::reverse(works.begin(), works.end());
    for (const auto& work : works) work->wait();
  });
  CHECK(got == std::vector<int32_t>{0, 1, 20, 21});
}

// Rows, columns and all of a mesh of 2 x 3, and a second channel of all; what is in flight at a time is
// random, and so is the pace of each device.
TEST_CASE("random_sequences_in_several_groups_end_with_the_right_numbers") {
  constexpr int kDevices = 6;
  struct GroupOf {
    std::vector<int> devices;
    int channel;
  };
  const GroupOf groups[] = {
      {{0, 1, 2}, 0},          {{5, 4, 3}, 0},         {{0, 3}, 0}, {{1, 4}, 0}, {{5, 2}, 0},
      {{0, 1, 2, 3, 4, 5}, 0}, {{0, 1, 2, 3, 4, 5}, 1}};
  struct Step {
    int group;
    Exchange exchange;
    bool waits_for_all;
  };
  for (uint32_t seed = 0; seed < 6; ++seed) {
    std::mt19937 random(seed);
    std::vector<Step> steps;
    for (int i = 0; i < 150; ++i) {
      const int g = static_cast<int>(random() % std::size(groups));
      const auto members = static_cast<int>(groups[g].devices.size());
      const auto what = random_collective(kOfAll[random() % 5], kTypes[random() % 6], members, random);
      steps.push_back({g, Exchange(what, members, random()), random() % 4 == 0});
    }
    SharedMemory memory(names(kDevices));
    std::atomic<int> right{0};
    int expected = 0;
    for (const Step& step : steps) expected += static_cast<int>(groups[step.group].devices.size());
    in_threads(kDevices, [&](int d) {
      std::mt19937 pace(seed * 100 + d);
      std::vector<std::unique_ptr<Communicator>> joined(std::size(groups));
      for (size_t g = 0; g < std::size(groups); ++g) {
        const auto& devices = groups[g].devices;
        if (std::count(devices.begin(), devices.end(), d) > 0)
          joined[g] = memory.join(devices, d, groups[g].channel);
      }
      std::vector<std::pair<Step*, WorkPtr>> open;
      const auto finish = [&](size_t at) {
        open[at].second->wait();
        right += open[at].first->exchange.is_right(joined[open[at].first->group]->rank());
        open.erase(open.begin() + static_cast<std::ptrdiff_t>(at));
      };
      for (Step& step : steps) {
        if (pace() % 16 == 0) std::this_thread::sleep_for(std::chrono::microseconds(pace() % 300));
        if (joined[step.group]) open.emplace_back(&step, step.exchange.start(*joined[step.group]));
        // In any order. What is waited for lies before this step on every member, so none waits in a circle.
        if (step.waits_for_all) {
          while (!open.empty()) finish(pace() % open.size());
        }
      }
      while (!open.empty()) finish(pace() % open.size());
    });
    CHECK(right == expected);
  }
}

TEST_CASE("a_bucket_is_what_each_of_its_collectives_is") {
  for (uint32_t seed = 0; seed < 40; ++seed) {
    INFO("seed " << seed);
    std::mt19937 random(seed);
    const int members = 1 + static_cast<int>(random() % 5);
    std::vector<Exchange> exchanges;
    for (size_t left = 1 + random() % 12; left > 0; --left) {
      exchanges.emplace_back(random_collective(kOfAll[random() % 5], kTypes[random() % 6], members, random),
                             members, random());
    }
    SharedMemory memory(names(members));
    std::atomic<int> right{0};
    in_threads(members, [&](int d) {
      std::vector<Share> bucket;
      for (Exchange& one : exchanges) bucket.push_back({one.what, one.in[d].data(), one.out[d].data()});
      memory.join(all_of(members), d)->start(bucket)->wait();
      for (const Exchange& one : exchanges) right += one.is_right(d);
    });
    CHECK(right == members * static_cast<int>(exchanges.size()));
  }
}

TEST_CASE("what_no_group_can_run_is_refused_and_changes_nothing") {
  const std::pair<Collective, const char*> rows[] = {
      {Collective::all_gather(DType::kF32, {4, 7}, 2, {3, 4}), "there is no dim 2 to cut"},
      {Collective::all_gather(DType::kF32, {4, 7}, 1, {3, 3}), "the parts of dim 1 add up to 6"},
      {Collective::all_gather(DType::kF32, {4, 7}, 1, {7}), "1 parts for a group of 2"},
      {Collective::all_gather(DType::kF32, {4, 7}, 1, {8, -1}), "a part of size -1"},
      {Collective::reduce_scatter(DType::kF32, {4}, -1, {}, Reduce::kSum), "it needs a dim that is cut"},
      {Collective::all_reduce(DType::kI64, {4}, Reduce::kMean), "i64 has no mean"},
      {Collective::all_reduce(DType::kF8E5M2, {4}, Reduce::kSum), "has no sum"},
      {Collective::broadcast(DType::kF32, {4}, 2), "from rank 2) in a group of 2"},
      {Collective::send(DType::kF32, {4}, -1), "to rank -1) in a group of 2"},
  };
  SharedMemory memory(names(2));
  const auto group = memory.join({0, 1}, 0);
  for (const auto& [what, why] : rows) {
    const Collective& refused = what;
    CHECK_THAT(error_of([&] { group->start(refused, nullptr, nullptr); }), ContainsSubstring(why));
  }
  const Collective send = Collective::send(DType::kF32, {4}, 1);
  CHECK_THAT(error_of([&] { group->start({{send}, {send}}); }),
             ContainsSubstring("a message is no part of a bucket"));
  Exchange exchange(Collective::all_reduce(DType::kF32, {4}, Reduce::kSum), 2, 1);
  in_threads(2, [&](int d) { exchange.start(*memory.join({0, 1}, d))->wait(); });
  CHECK(exchange.is_right(0));
}

TEST_CASE("devices_that_disagree_are_told_what_each_wanted") {
  SharedMemory memory(names(2));
  const float value = 1;
  float sum = 0;
  const auto first = memory.join({0, 1}, 0);
  auto work = first->start(Collective::all_reduce(DType::kF32, {1}, Reduce::kSum), &value, &sum);
  const auto second = memory.join({0, 1}, 1);
  CHECK(
      error_of([&] { second->start(Collective::broadcast(DType::kF32, {1}, 0), nullptr, &sum); }) ==
      "moai run: devices disagree on a group's next collective: cpu:1 starts broadcast(f32[1], from rank 0), "
      "cpu:0 started all_reduce(sum, f32[1])");
  memory.fail(1, "it disagreed");
  CHECK(error_of([&] { work->wait(); }) ==
        "moai run: all_reduce(sum, f32[1]) on cpu:0 was given up\n  cpu:1 failed: it disagreed");
}

// Each kind; at each point of a sequence; by each device.
TEST_CASE("when_a_device_fails_every_wait_ends_and_names_it") {
  constexpr int kDevices = 4;
  constexpr int kLength = 4;
  std::mt19937 random(3);
  for (const Kind kind : kOfAll) {
    for (int point = 0; point <= kLength; ++point) {
      const int bad = static_cast<int>(random() % kDevices);
      std::vector<Exchange> exchanges;
      for (int i = 0; i < kLength; ++i) {
        exchanges.emplace_back(random_collective(kind, DType::kF32, kDevices, random), kDevices, random());
      }
      SharedMemory memory(names(kDevices));
      std::vector<std::string> said(kDevices);
      in_threads(kDevices, [&](int d) {
        const auto group = memory.join(all_of(kDevices), d);
        said[d] = error_of([&] {
          for (int i = 0; i < kLength; ++i) {
            auto work = exchanges[i].start(*group);
            if (d == bad && i == point) throw std::runtime_error("boom");  // drops what it has started
            work->wait();
          }
          if (d == bad) throw std::runtime_error("boom");
          group->start(Collective::barrier(), nullptr, nullptr)->wait();
        });
        if (d == bad) memory.fail(d, said[d]);
      });
      const bool dropped = point < kLength;
      for (int d = 0; d < kDevices; ++d) {
        if (d == bad) {
          CHECK(said[d] == "boom");
        } else {
          // A collective that the others complete without it is no loss; the one after is.
          CHECK_THAT(said[d],
                     ContainsSubstring(concat(" on cpu:", d, " was given up\n  cpu:", bad, " failed: ")));
          if (!dropped) CHECK_THAT(said[d], ContainsSubstring("boom"));
        }
      }
      // And all goes on after a reset.
      memory.reset();
      Exchange again(Collective::all_reduce(DType::kI64, {1000}, Reduce::kSum), kDevices, 5);
      std::atomic<int> right{0};
      in_threads(kDevices, [&](int d) {
        again.start(*memory.join(all_of(kDevices), d))->wait();
        right += again.is_right(d);
      });
      CHECK(right == kDevices);
    }
  }
}

// Buffers are unmapped as soon as the failing call has returned: a sanitizer sees any later touch.
TEST_CASE("after_a_failure_nobody_touches_buffers") {
  constexpr int kDevices = 4;
  for (int times = 0; times < 20; ++times) {
    SharedMemory memory(names(kDevices));
    const auto what = Collective::all_reduce(DType::kF32, {1 << 20}, Reduce::kSum);
    std::atomic<int> given_up{0};
    in_threads(kDevices, [&](int d) {
      const auto group = memory.join(all_of(kDevices), d);
      auto buffer = std::make_unique<std::vector<float>>(1 << 20, 1.0f);
      try {
        auto work = group->start(what, buffer->data(), buffer->data());
        if (d == 0) {
          std::this_thread::sleep_for(std::chrono::microseconds(50 * times));
          memory.fail(0, "boom");
          buffer = nullptr;
        } else {
          work->wait();
        }
      } catch (const Cancelled&) {
        ++given_up;
      }
      buffer = nullptr;
    });
    CHECK(given_up <= kDevices - 1);
  }
}

TEST_CASE("cancelling_ends_sends_and_receives_too") {
  SharedMemory memory(names(3));
  std::vector<std::string> said(3);
  std::atomic<int> waiting{0};
  in_threads(3, [&](int d) {
    if (d == 2) {
      while (waiting < 2) std::this_thread::yield();
      return memory.fail(kNoDevice, "interrupted");
    }
    const auto group = memory.join(all_of(3), d);
    float value = 0;
    auto work = d == 0 ? group->start(Collective::send(DType::kF32, {1}, 2), &value, nullptr)
                       : group->start(Collective::receive(DType::kF32, {1}, 0), nullptr, &value);
    ++waiting;
    said[d] = error_of([&] { work->wait(); });
  });
  CHECK(said[0] == "moai run: send(f32[1], to rank 2) on cpu:0 was given up\n  interrupted");
  CHECK_THAT(said[1], ContainsSubstring("on cpu:1 was given up\n  interrupted"));
  CHECK_THAT(error_of([&] { memory.join({0}, 0)->start(Collective::barrier(), nullptr, nullptr); }),
             ContainsSubstring("interrupted"));
}

}  // namespace
}  // namespace moai::runtime
