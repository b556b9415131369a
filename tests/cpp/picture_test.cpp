#include "plan/picture.h"

#include <algorithm>

#include "catch.h"
#include "random_pipeline.h"

namespace moai::plan {
namespace {

TEST_CASE("picture: a pipeline's spans and bytes are the simulation's") {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    RandomPipeline random(seed);
    const Pipeline pipeline = random.make();
    const Schedule schedule = random.any_schedule(pipeline, random.below(2) != 0);
    const Simulation simulation = simulate(schedule, pipeline);
    const Picture picture = picture_of(pipeline, schedule, simulation);
    std::vector<double> busy(static_cast<size_t>(schedule.devices), 0.0);
    double end = 0;
    for (const auto& span : picture.spans) {
      busy[span.device] += span.end - span.start;
      end = std::max(end, span.end);
    }
    INFO("seed " << seed);
    CHECK(end == Approx(simulation.seconds));
    for (int32_t d = 0; d < schedule.devices; ++d) {
      CHECK(busy[d] == Approx(simulation.devices[d].busy_seconds));
      double most = 0;
      for (const auto& point : picture.memory[d]) most = std::max(most, point.bytes);
      CHECK(most == Approx(simulation.devices[d].peak_bytes));
      // What is on its way has gone at the end.
      CHECK(picture.memory[d].back().bytes == Approx(picture.memory[d].front().bytes).margin(1e-9));
    }
  }
}

}  // namespace
}  // namespace moai::plan
