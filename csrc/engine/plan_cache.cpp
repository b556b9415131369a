#include "engine/plan_cache.h"

#include "engine/log.h"
#include "ir/error.h"
#include "plan/cluster/json.h"

namespace moai::engine {

namespace {

using plan::Json;

// A line of JSON: what is said of the plan that follows it.
std::string header(const KeptPlan& kept) {
  std::string text = concat("{\"layout\": ", plan::json_string(kept.layout));
  if (kept.predicted != nullptr) {
    const Prediction& p = *kept.predicted;
    text += ", \"predicted\": [";
    const char* between = "";
    for (const double number : {p.step_seconds, p.compute_seconds, p.communicate_seconds, p.wait_seconds,
                                p.peak_bytes, p.mesh_gap, p.plan_seconds}) {
      text += between + plan::json_number(number);
      between = ", ";
    }
    text += concat("], \"is_corrected\": ", p.is_corrected ? "true" : "false");
  }
  return text + "}";
}

// Null where the line is none.
std::optional<KeptPlan> read_header(const std::string& line) {
  const Json json = plan::parse_json(line);
  const Json* layout = json.find("layout");
  if (layout == nullptr) return std::nullopt;
  KeptPlan kept;
  kept.layout = layout->text;
  if (const Json* predicted = json.find("predicted")) {
    const Json* is_corrected = json.find("is_corrected");
    if (predicted->items.size() != 7 || is_corrected == nullptr) return std::nullopt;
    const auto at = [&](size_t i) { return predicted->items[i].number; };
    kept.predicted = std::make_shared<const Prediction>(
        Prediction{at(0), at(1), at(2), at(3), at(4), at(5), at(6), true, is_corrected->truth});
  }
  return kept;
}

}  // namespace

std::optional<KeptPlan> PlanCache::find(const std::string& question) const {
  const auto text = files_.find(question);
  if (!text) return std::nullopt;
  const size_t end = text->find('\n');
  if (end == std::string::npos) return std::nullopt;
  try {
    auto kept = read_header(text->substr(0, end));
    if (kept) kept->plan = text->substr(end + 1);
    return kept;
  } catch (const Error&) {
    return std::nullopt;
  }
}

void PlanCache::keep(const std::string& question, const KeptPlan& kept) const {
  const std::string why = files_.keep(question, header(kept) + "\n" + kept.plan);
  if (!why.empty() && logs(Topic::kCompile))
    log(Topic::kCompile, concat("no plan is kept in ", files_.folder(), ": ", why));
}

}  // namespace moai::engine
