#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "engine/prediction.h"
#include "runtime/disk_cache.h"

namespace moai::engine {

// A plan as it is kept between processes: what a search found, so that it need not be repeated.
struct KeptPlan {
  std::string plan;                             // see plan/plan_file.h
  std::string layout;                           // in words
  std::shared_ptr<const Prediction> predicted;  // null where none was made
};

// Plans in a folder, by what was asked: a step, the devices, the settings. What a file's hash cannot tell,
// that the plan is of this very step, is seen when the plan is followed.
class PlanCache {
 public:
  // An empty `folder` keeps nothing.
  explicit PlanCache(std::string folder) : files_(std::move(folder), ".plan") {}

  bool is_on() const { return files_.is_on(); }
  std::optional<KeptPlan> find(const std::string& question) const;
  // Raises nothing: a full disk or a folder that may not be written costs the next process a search, and a
  // line of MOAI_LOG=compile.
  void keep(const std::string& question, const KeptPlan& kept) const;

 private:
  runtime::DiskCache files_;
};

}  // namespace moai::engine
