#pragma once

#include <memory>
#include <optional>
#include <string>

#include "engine/prediction.h"

namespace moai::engine {

// A plan as it is kept between processes: what a search found, so that it need not be repeated.
struct KeptPlan {
  std::string plan;                             // see plan/plan_file.h
  std::string layout;                           // in words
  std::shared_ptr<const Prediction> predicted;  // null where none was made
};

// Plans in a folder, a file for each question that was asked (a step, the devices, the settings: whatever
// the answer depends on, as text). Any number of processes may share the folder: a file is written under
// another name and renamed, and one that is damaged, or of another question, is as good as none.
class PlanCache {
 public:
  // An empty `folder` keeps nothing. It is made when the first plan is kept, for this user alone.
  explicit PlanCache(std::string folder) : folder_(std::move(folder)) {}

  bool is_on() const { return !folder_.empty(); }
  std::optional<KeptPlan> find(const std::string& question) const;
  // Replaces what there is. The oldest go when there are too many. Raises nothing: a full disk or a folder
  // that may not be written costs the next process a search, and a line of MOAI_LOG=compile.
  void keep(const std::string& question, const KeptPlan& kept) const;

 private:
  std::string path_of(const std::string& question) const;

  std::string folder_;
};

}  // namespace moai::engine
