#include "engine/plan_cache.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>
#include <vector>

#include "engine/log.h"
#include "ir/arg.h"
#include "ir/error.h"
#include "plan/cluster/json.h"

namespace moai::engine {

namespace {

namespace fs = std::filesystem;
using plan::Json;

// Note [What a kept plan looks like]
// Three parts: a line that says what the file is, with a hash of the rest; a line of JSON with the question
// and what was predicted; the plan, which `MOAI_PLAN=FILE.json` would follow. The hash refuses whatever a
// crash, a full disk or a copy left incomplete; what it cannot know, that the plan is of this very step, is
// seen when the plan is followed.
constexpr const char* kFirstWord = "moai-plan-1 ";
constexpr const char* kSuffix = ".plan";

constexpr size_t kMostFiles = 512;
constexpr size_t kLeftFiles = 384;
// Beyond any plan: what is larger was put there by somebody else.
constexpr std::uintmax_t kMostBytes = std::uintmax_t{64} << 20;

std::string hex(uint64_t number) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(number));
  return text;
}

std::string first_line(const std::string& rest) { return kFirstWord + hex(ir::mix_text(1, rest)); }

std::string header(const std::string& question, const KeptPlan& kept) {
  std::string text = concat("{\"question\": ", plan::json_string(question),
                            ", \"layout\": ", plan::json_string(kept.layout));
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

// Null where the line is no header of this question.
std::optional<KeptPlan> read_header(const std::string& line, const std::string& question) {
  const Json json = plan::parse_json(line);
  const Json* asked = json.find("question");
  const Json* layout = json.find("layout");
  if (asked == nullptr || asked->text != question || layout == nullptr) return std::nullopt;
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

std::string read(const std::string& path) {
  std::error_code error;
  const std::uintmax_t bytes = fs::file_size(path, error);
  if (error || bytes > kMostBytes) return "";
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return file ? text.str() : "";
}

void remove_oldest(const std::string& folder) {
  std::error_code error;
  std::vector<std::pair<fs::file_time_type, fs::path>> files;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    std::error_code gone;  // another process's doing
    const auto time = fs::last_write_time(it->path(), gone);
    if (!gone && it->path().extension() == kSuffix) files.emplace_back(time, it->path());
  }
  if (files.size() <= kMostFiles) return;
  std::sort(files.begin(), files.end());
  for (size_t i = 0; i + kLeftFiles < files.size(); ++i) fs::remove(files[i].second, error);
}

// The text under `path`, whole or not at all. Returns why it could not be.
std::string write(const std::string& path, const std::string& text) {
  static std::atomic<int> count{0};
  const std::string temporary = concat(path, ".", getpid(), ".", count.fetch_add(1));
  std::error_code error;
  {
    std::ofstream file(temporary, std::ios::binary);
    file << text;
    file.close();
    if (!file) error = std::error_code(errno, std::generic_category());
  }
  if (!error) fs::rename(temporary, path, error);
  if (!error) return "";
  std::error_code ignored;
  fs::remove(temporary, ignored);
  return error.message();
}

}  // namespace

std::string PlanCache::path_of(const std::string& question) const {
  return concat(folder_, "/", hex(ir::mix_text(0, question)), kSuffix);
}

std::optional<KeptPlan> PlanCache::find(const std::string& question) const {
  if (!is_on()) return std::nullopt;
  const std::string text = read(path_of(question));
  const size_t first = text.find('\n');
  if (first == std::string::npos || text.substr(0, first) != first_line(text.substr(first + 1)))
    return std::nullopt;
  const size_t second = text.find('\n', first + 1);
  if (second == std::string::npos) return std::nullopt;
  try {
    auto kept = read_header(text.substr(first + 1, second - first - 1), question);
    if (kept) kept->plan = text.substr(second + 1);
    return kept;
  } catch (const Error&) {
    return std::nullopt;
  }
}

void PlanCache::keep(const std::string& question, const KeptPlan& kept) const {
  if (!is_on()) return;
  std::error_code error;
  if (fs::create_directories(folder_, error)) fs::permissions(folder_, fs::perms::owner_all, error);
  const std::string rest = header(question, kept) + "\n" + kept.plan;
  const std::string why = write(path_of(question), first_line(rest) + "\n" + rest);
  if (!why.empty()) {
    if (logs(Topic::kCompile)) log(Topic::kCompile, concat("no plan is kept in ", folder_, ": ", why));
    return;
  }
  remove_oldest(folder_);
}

}  // namespace moai::engine
