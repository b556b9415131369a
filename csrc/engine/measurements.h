#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "engine/prediction.h"

namespace moai::engine {

// What a run took, by what its devices did meanwhile. Seconds, the mean of all devices.
struct Parts {
  double compute = 0;
  double communicate = 0;  // moving bytes, or waiting while others move them
  double wait = 0;         // for devices that had not come to a collective yet

  double total() const { return compute + communicate + wait; }
};

// How the last planned training step runs. Thread-safe.
class Measurements {
 public:
  struct Explained {
    std::string layout;
    std::shared_ptr<const Prediction> predicted;  // null before the first
    std::vector<Parts> runs;                      // the last ones, the latest last
  };

  // Another prediction than the last one's begins anew.
  void add(const std::string& layout, const std::shared_ptr<const Prediction>& predicted, const Parts& run);
  Explained explained() const;

  // Once for a prediction, when enough steps have been seen: what to correct it by, if they take more than a
  // fifth longer or shorter than it says.
  std::optional<Correction> correction(const std::shared_ptr<const Prediction>& of);

 private:
  mutable std::mutex lock_;
  Explained explained_;
  size_t seen_ = 0;  // runs of explained_
};

}  // namespace moai::engine
