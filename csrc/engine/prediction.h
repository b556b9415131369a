#pragma once

namespace moai::engine {

// What a planned training step was predicted to take. Seconds and bytes of one device.
struct Prediction {
  double step_seconds = 0;
  double compute_seconds = 0;
  double communicate_seconds = 0;
  double wait_seconds = 0;  // for other stages
  double peak_bytes = 0;
  double mesh_gap = 0;        // see plan::StepPlan
  double plan_seconds = 0;    // that the search took
  bool was_kept = false;      // by an earlier process: there was no search
  bool is_corrected = false;  // by what steps took: it is not reconsidered again
};

// Measured over predicted seconds.
struct Correction {
  double compute = 1;
  double communicate = 1;
};

}  // namespace moai::engine
