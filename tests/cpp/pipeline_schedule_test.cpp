#include <algorithm>
#include <cstdint>
#include <vector>

#include "catch.h"
#include "ir/error.h"
#include "plan/pipeline/schedule.h"
#include "random_pipeline.h"

namespace moai::plan {
namespace {

constexpr Order kOrders[] = {Order::kGPipe, Order::k1F1B, Order::kZeroBubble};

double most_bytes(const Simulation& simulation) {
  double most = 0;
  for (const Simulation::Device& device : simulation.devices) most = std::max(most, device.peak_bytes);
  return most;
}

// Each test's sums are of numbers of about one: what rounding may do to them.
constexpr double kRounding = 1e-9;

void check_simulation(const Schedule& schedule, const Pipeline& pipeline, const Simulation& simulation) {
  const Simulation naive = naive_simulation(schedule, pipeline);
  REQUIRE(simulation.seconds == Approx(naive.seconds).epsilon(kRounding));
  for (int32_t d = 0; d < schedule.devices; ++d) {
    REQUIRE(simulation.spans[d].size() == naive.spans[d].size());
    for (size_t i = 0; i < naive.spans[d].size(); ++i) {
      REQUIRE(simulation.spans[d][i].start == naive.spans[d][i].start);
      REQUIRE(simulation.spans[d][i].end == naive.spans[d][i].end);
    }
    const Simulation::Device& device = simulation.devices[d];
    REQUIRE(device.peak_bytes == naive.devices[d].peak_bytes);
    REQUIRE(device.bubble_seconds >= 0);
    REQUIRE(device.exposed_seconds >= 0);
    const double sum = device.busy_seconds + device.bubble_seconds + device.exposed_seconds;
    REQUIRE(sum == Approx(simulation.seconds).epsilon(kRounding));
  }
}

TEST_CASE("every_order_verifies_and_simulates_as_defined_and_stays_above_the_bound") {
  for (uint32_t seed = 0; seed < 800; ++seed) {
    RandomPipeline random(seed);
    const Pipeline pipeline = random.make();
    for (const Order order : kOrders) {
      INFO("seed " << seed << ", " << order_name(order));
      const Schedule schedule = make_schedule(pipeline, order);
      REQUIRE_NOTHROW(verify(schedule));
      const Simulation simulation = simulate(schedule, pipeline);
      check_simulation(schedule, pipeline, simulation);
      REQUIRE(simulation.seconds >= least_seconds(pipeline, order) * (1 - kRounding));
    }
  }
}

TEST_CASE("no_order_of_tasks_comes_below_the_bound") {
  int32_t tight = 0;
  for (uint32_t seed = 0; seed < 1500; ++seed) {
    RandomPipeline random(seed);
    const Pipeline pipeline = random.make();
    INFO("seed " << seed);
    for (const Order order : {Order::k1F1B, Order::kZeroBubble}) {
      const Schedule schedule = random.any_schedule(pipeline, order == Order::kZeroBubble);
      const Simulation simulation = simulate(schedule, pipeline);
      check_simulation(schedule, pipeline, simulation);
      const double least = least_seconds(pipeline, order);
      REQUIRE(simulation.seconds >= least * (1 - kRounding));
      tight += simulation.seconds <= least * (1 + kRounding);
    }
    REQUIRE(least_seconds(pipeline, Order::kZeroBubble) <=
            least_seconds(pipeline, Order::k1F1B) * (1 + kRounding));
  }
  CHECK(tight > 100);
}

TEST_CASE("equal_stages_take_the_textbooks_time_under_1f1b_and_gpipe") {
  for (int32_t p = 1; p <= 6; ++p) {
    for (int32_t m = 1; m <= 9; ++m) {
      INFO(p << " stages, " << m << " micro-batches");
      const Pipeline pipeline = equal_stages(p, 1, m, 2, 3, 1);
      for (const Order order : {Order::kGPipe, Order::k1F1B}) {
        const Simulation simulation = simulate(make_schedule(pipeline, order), pipeline);
        CHECK(simulation.seconds == (m + p - 1) * (2 + 3 + 1));
        for (const Simulation::Device& device : simulation.devices) {
          CHECK(device.bubble_seconds == (p - 1) * (2 + 3 + 1));
        }
      }
      CHECK(least_seconds(pipeline, Order::k1F1B) == (m + p - 1) * (2 + 3 + 1));
    }
  }
}

TEST_CASE("interleaving_divides_the_bubble_by_the_chunks_and_holds_more") {
  for (int32_t p = 2; p <= 5; ++p) {
    for (int32_t v = 2; v <= 4; ++v) {
      for (const int32_t groups : {1, 2, 5}) {
        INFO(p << " devices, " << v << " chunks, " << groups << " groups");
        const Pipeline pipeline = equal_stages(p, v, groups * p, 2, 3, 1);
        const Simulation simulation = simulate(make_schedule(pipeline, Order::k1F1B), pipeline);
        CHECK(simulation.seconds == (groups * p * v + p - 1) * (2 + 3 + 1));
        for (int32_t d = 0; d < p; ++d) {  // as published: 2 (P - d - 1) + (V - 1) P and one more
          CHECK(simulation.devices[d].peak_bytes ==
                std::min(groups * p * v, 2 * (p - d - 1) + (v - 1) * p + 1));
        }
      }
    }
  }
}

TEST_CASE("1f1b_holds_a_micro_batch_for_each_stage_that_follows_and_gpipe_all") {
  for (int32_t p = 1; p <= 6; ++p) {
    for (int32_t m = 1; m <= 9; ++m) {
      const Pipeline pipeline = equal_stages(p, 1, m, 2, 3, 1);
      const Simulation all = simulate(make_schedule(pipeline, Order::kGPipe), pipeline);
      const Simulation few = simulate(make_schedule(pipeline, Order::k1F1B), pipeline);
      for (int32_t d = 0; d < p; ++d) {
        INFO("stage " << d << " of " << p << ", " << m << " micro-batches");
        CHECK(all.devices[d].peak_bytes == m);
        CHECK(few.devices[d].peak_bytes == std::min(m, p - d));
      }
    }
  }
}

// With F = B = W all that is left of the bubble is the first micro-batch's way to the last device: ZB-H1.
TEST_CASE("zero_bubble_fills_equal_stages_in_the_memory_of_1f1b") {
  for (int32_t p = 2; p <= 8; ++p) {
    for (int32_t v = 1; v <= 3; ++v) {
      for (const int32_t groups : {1, 2, 4}) {
        INFO(p << " devices, " << v << " chunks, " << groups << " groups");
        const Pipeline pipeline = equal_stages(p, v, groups * p, 1, 1, 1);
        const Schedule schedule = make_schedule(pipeline, Order::kZeroBubble);
        const Simulation simulation = simulate(schedule, pipeline);
        CHECK(simulation.seconds == 3 * groups * p * v + p - 1);
        CHECK(most_bytes(simulation) ==
              most_bytes(simulate(make_schedule(pipeline, Order::k1F1B), pipeline)));
      }
    }
  }
}

TEST_CASE("zero_bubble_is_never_slower_nor_larger_than_1f1b") {
  int32_t faster = 0;
  for (uint32_t seed = 0; seed < 2000; ++seed) {
    RandomPipeline random(seed);
    Pipeline pipeline = random.make();
    for (Pipeline::Stage& stage : pipeline.stages) {
      stage.weight_bytes = std::min(stage.weight_bytes, stage.activation_bytes);
    }
    INFO("seed " << seed);
    const Simulation with = simulate(make_schedule(pipeline, Order::k1F1B), pipeline);
    const Simulation apart = simulate(make_schedule(pipeline, Order::kZeroBubble), pipeline);
    REQUIRE(apart.seconds <= with.seconds * (1 + kRounding));
    REQUIRE(most_bytes(apart) <= most_bytes(with));
    faster += apart.seconds < with.seconds * (1 - kRounding);
  }
  CHECK(faster > 1000);
}

// All ways to merge the forwards, backwards and weight gradients of one stage, each in their order.
void merges(int32_t stage, int32_t micro_batches, std::vector<Task>* so_far, int32_t f, int32_t b, int32_t w,
            std::vector<std::vector<Task>>* all) {
  if (w == micro_batches) return all->push_back(*so_far);
  const auto go_on = [&](TaskKind kind, int32_t m) {
    so_far->push_back({kind, stage, m});
    merges(stage, micro_batches, so_far, f + (kind == TaskKind::kForward), b + (kind == TaskKind::kBackward),
           w + (kind == TaskKind::kWeight), all);
    so_far->pop_back();
  };
  if (f < micro_batches) go_on(TaskKind::kForward, f);
  if (b < f) go_on(TaskKind::kBackward, b);
  if (w < b) go_on(TaskKind::kWeight, w);
}

double best_of_all(const Pipeline& pipeline, double limit_bytes) {
  std::vector<std::vector<std::vector<Task>>> all(pipeline.devices);
  for (int32_t d = 0; d < pipeline.devices; ++d) {
    std::vector<Task> so_far;
    merges(d, pipeline.micro_batches, &so_far, 0, 0, 0, &all[d]);
  }
  Schedule schedule;
  schedule.devices = pipeline.devices;
  schedule.micro_batches = pipeline.micro_batches;
  schedule.split = true;
  schedule.tasks.resize(pipeline.devices);
  double best = 1e300;
  std::vector<size_t> choice(pipeline.devices, 0);
  for (size_t d = 0; d < choice.size();) {
    for (d = 0; d < choice.size(); ++d) schedule.tasks[d] = all[d][choice[d]];
    try {
      const Simulation simulation = simulate(schedule, pipeline);
      if (most_bytes(simulation) <= limit_bytes) best = std::min(best, simulation.seconds);
    } catch (const Error&) {
      // This choice never ends.
    }
    for (d = 0; d < choice.size() && ++choice[d] == all[d].size(); ++d) choice[d] = 0;
  }
  return best;
}

// Of `problems` random ones, in the memory of 1F1B: how many are solved best, and the mean of time over best.
struct Closeness {
  int32_t best = 0;
  double mean = 0;
};

Closeness closeness(int32_t devices, int32_t micro_batches, int32_t problems) {
  Closeness result;
  for (int32_t seed = 0; seed < problems; ++seed) {
    RandomPipeline random(seed);
    Pipeline pipeline = equal_stages(devices, 1, micro_batches, 0, 0, 0);
    for (Pipeline::Stage& stage : pipeline.stages) {
      stage.forward_seconds = 0.5 + random.real();
      stage.backward_seconds = 0.5 + random.real();
      stage.weight_seconds = 0.5 + random.real();
      if (seed % 2) stage.to_next = stage.to_previous = {0.3 * random.real(), 0.1};
    }
    INFO(devices << " devices, seed " << seed);
    const double limit = most_bytes(simulate(make_schedule(pipeline, Order::k1F1B), pipeline));
    const Simulation simulation = simulate(make_schedule(pipeline, Order::kZeroBubble), pipeline);
    const double least = best_of_all(pipeline, limit);
    REQUIRE(most_bytes(simulation) <= limit);
    REQUIRE(least >= least_seconds(pipeline, Order::kZeroBubble) * (1 - kRounding));
    REQUIRE(simulation.seconds >= least * (1 - kRounding));
    result.best += simulation.seconds <= least * (1 + kRounding);
    result.mean += simulation.seconds / least / problems;
  }
  return result;
}

TEST_CASE("zero_bubble_is_close_to_the_best_of_all_orders") {
  struct Row {
    int32_t devices, micro_batches, problems;
  };
  for (const Row& row : {Row{2, 2, 100}, Row{2, 3, 50}, Row{3, 2, 100}, Row{4, 2, 30}}) {
    const Closeness found = closeness(row.devices, row.micro_batches, row.problems);
    INFO(row.devices << " devices, " << row.micro_batches << " micro-batches: " << found.best << " of "
                     << row.problems << " best, mean " << found.mean);
    CHECK(found.best >= 0.7 * row.problems);
    CHECK(found.mean <= 1.01);
  }
}

TEST_CASE("zero_bubble_keeps_to_limits_or_says_what_it_needs") {
  int32_t kept = 0;
  int32_t refused = 0;
  for (uint32_t seed = 0; seed < 1500; ++seed) {
    RandomPipeline random(seed);
    const Pipeline pipeline = random.make();
    std::vector<double> limits;
    for (int32_t d = 0; d < pipeline.devices; ++d) {
      double bytes = 0;
      for (int32_t s = d; s < pipeline.devices * pipeline.chunks; s += pipeline.devices) {
        bytes +=
            pipeline.stages[s].resident_bytes + (1 + random.below(8)) * pipeline.stages[s].activation_bytes;
      }
      limits.push_back(bytes);
    }
    INFO("seed " << seed);
    Schedule schedule;
    try {
      schedule = make_schedule(pipeline, Order::kZeroBubble, limits);
    } catch (const Error& error) {
      REQUIRE_THAT(error.what(), ContainsSubstring("zero-bubble: device") && ContainsSubstring("would fit"));
      ++refused;
      continue;
    }
    ++kept;
    REQUIRE_NOTHROW(verify(schedule));
    const Simulation simulation = simulate(schedule, pipeline);
    for (int32_t d = 0; d < pipeline.devices; ++d) REQUIRE(simulation.devices[d].peak_bytes <= limits[d]);
  }
  CHECK(kept > 300);
  CHECK(refused > 300);
}

TEST_CASE("the_least_that_zero_bubble_needs_is_a_group_through_all_chunks_but_the_last") {
  for (int32_t p = 1; p <= 4; ++p) {
    for (int32_t v = 1; v <= 3; ++v) {
      for (const int32_t m : {1, 3, 4, 7}) {
        INFO(p << " devices, " << v << " chunks, " << m << " micro-batches");
        const Pipeline pipeline = equal_stages(p, v, m, 1, 1, 1);
        const double least = (v - 1) * std::min(p, m) + 1;
        const Schedule schedule = make_schedule(pipeline, Order::kZeroBubble, std::vector<double>(p, least));
        REQUIRE_NOTHROW(verify(schedule));
        CHECK(most_bytes(simulate(schedule, pipeline)) == least);
        CHECK_THROWS_WITH(make_schedule(pipeline, Order::kZeroBubble, std::vector<double>(p, least - 1)),
                          ContainsSubstring("zero-bubble: device 0 may hold"));
      }
    }
  }
}

// Twice the memory of 1F1B lets the first device go on with forwards until the first gradient comes: ZB-H2.
TEST_CASE("more_memory_hides_messages") {
  Pipeline pipeline = equal_stages(4, 1, 32, 1, 1, 1);
  for (Pipeline::Stage& stage : pipeline.stages) stage.to_next = stage.to_previous = {0.25, 0.25};
  const double tight = simulate(make_schedule(pipeline, Order::kZeroBubble), pipeline).seconds;
  const Schedule schedule = make_schedule(pipeline, Order::kZeroBubble, std::vector<double>(4, 8));
  const double ample = simulate(schedule, pipeline).seconds;
  CHECK(ample < tight);
  CHECK(ample == least_seconds(pipeline, Order::kZeroBubble));
}

TEST_CASE("a_wait_for_a_message_is_exposed_and_a_wait_for_work_is_bubble") {
  Pipeline pipeline = equal_stages(2, 1, 1, 2, 3, 1);
  pipeline.stages[0].to_next = {4, 1};
  pipeline.stages[1].to_previous = {5, 2};
  pipeline.stages[1].update_seconds = 20;
  const Schedule schedule = make_schedule(pipeline, Order::k1F1B);
  const Simulation simulation = simulate(schedule, pipeline);
  CHECK(simulation.spans[1][0].start == 7);   // 2 + 4 + 1
  CHECK(simulation.spans[1][1].end == 13);    // 7 + 2 + 4
  CHECK(simulation.spans[0][1].start == 20);  // 13 + 5 + 2
  CHECK(simulation.seconds == 33);            // the last stage updates from 13 to 33
  CHECK(simulation.devices[0].busy_seconds == 6);
  CHECK(simulation.devices[0].bubble_seconds == 20);  // from 2 to 13, and from 24
  CHECK(simulation.devices[0].exposed_seconds == 7);
  CHECK(simulation.devices[1].bubble_seconds == 2);
  CHECK(simulation.devices[1].exposed_seconds == 5);
  pipeline.updates = Pipeline::Updates::kTogether;
  CHECK(simulate(schedule, pipeline).seconds == 44);  // 20 + 4 + 20
}

TEST_CASE("messages_of_a_device_leave_one_after_another") {
  Pipeline pipeline = equal_stages(2, 1, 2, 1, 1, 0);
  pipeline.stages[0].to_next = {10, 0};
  const Simulation simulation = simulate(make_schedule(pipeline, Order::kGPipe), pipeline);
  CHECK(simulation.spans[1][0].start == 11);
  CHECK(simulation.spans[1][1].start == 21);
}

Schedule of_two(std::vector<Task> first, std::vector<Task> second) {
  Schedule schedule;
  schedule.devices = 2;
  schedule.micro_batches = 2;
  schedule.tasks = {std::move(first), std::move(second)};
  return schedule;
}

TEST_CASE("verify_names_the_task_that_is_wrong") {
  const auto f = [](int32_t s, int32_t m) { return Task{TaskKind::kForward, s, m}; };
  const auto b = [](int32_t s, int32_t m) { return Task{TaskKind::kBackward, s, m}; };
  const std::vector<Task> good0{f(0, 0), f(0, 1), b(0, 0), b(0, 1)};
  const std::vector<Task> good1{f(1, 0), b(1, 0), f(1, 1), b(1, 1)};
  REQUIRE_NOTHROW(verify(of_two(good0, good1)));
  const std::vector<std::pair<Schedule, const char*>> rows = {
      {of_two(good0, {f(1, 0), b(1, 0), f(1, 1)}), "device 1 lacks the backward of micro-batch 1 on stage 1"},
      {of_two(good0, {f(1, 0), b(1, 0), f(1, 0), f(1, 1), b(1, 1)}),
       "device 1 has the forward of micro-batch 0 on stage 1 twice"},
      {of_two(good0, {b(1, 0), f(1, 0), f(1, 1), b(1, 1)}),
       "device 1 has the backward of micro-batch 0 on stage 1 before what it needs"},
      {of_two(good1, good0), "device 0 has the forward of micro-batch 0 on stage 1, which is device 1's"},
      {of_two(good0, {f(1, 0), f(1, 2)}), "forward of micro-batch 2 on stage 1; there are 2 stages"},
      {of_two(good0, {f(1, 0), {TaskKind::kWeight, 1, 0}}), "but the schedule splits none"},
      {of_two(good0, {f(1, 1), b(1, 1), f(1, 0), b(1, 0)}),
       "device 0 sends the result of the forward of micro-batch 0 on stage 0 where device 1 receives for the "
       "forward of micro-batch 1 on stage 1"},
      {of_two({f(0, 0), b(0, 0), f(0, 1), b(0, 1)}, {f(1, 0), f(1, 1), b(1, 0), b(1, 1)}),
       "device 0 waits forever to start the backward of micro-batch 0 on stage 0"},
  };
  for (const auto& [schedule, message] : rows)
    CHECK_THROWS_WITH(verify(schedule), ContainsSubstring(message));
  CHECK_THROWS_WITH(simulate(rows.back().first, equal_stages(2, 1, 2, 1, 1, 1)),
                    ContainsSubstring("waits forever"));
}

TEST_CASE("pipelines_that_make_no_sense_are_refused") {
  const Pipeline good = equal_stages(2, 1, 2, 1, 1, 1);
  Pipeline bad = good;
  bad.stages.pop_back();
  CHECK_THROWS_WITH(make_schedule(bad, Order::k1F1B), ContainsSubstring("costs of 1 stages for 2 devices"));
  bad = good;
  bad.stages[1].to_previous.seconds = -1;
  CHECK_THROWS_WITH(make_schedule(bad, Order::k1F1B),
                    ContainsSubstring("to_previous.seconds of stage 1 is -1"));
  bad = good;
  bad.micro_batches = 0;
  CHECK_THROWS_WITH(least_seconds(bad, Order::k1F1B), ContainsSubstring("0 micro-batches"));
  bad = good;
  bad.micro_batches = 1 << 30;
  CHECK_THROWS_WITH(make_schedule(bad, Order::k1F1B), ContainsSubstring("too many"));
  CHECK_THROWS_WITH(make_schedule(good, Order::kZeroBubble, {1}),
                    ContainsSubstring("limits of 1 devices for 2"));
  CHECK_THROWS_WITH(simulate(make_schedule(good, Order::k1F1B), equal_stages(2, 1, 3, 1, 1, 1)),
                    ContainsSubstring("costs of 2 x 1 and 3"));
}

}  // namespace
}  // namespace moai::plan
