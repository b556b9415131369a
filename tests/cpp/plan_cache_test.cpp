#include "engine/plan_cache.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "catch.h"
#include "engine/choose.h"
#include "engine/stats.h"
#include "ir/error.h"
#include "plan/replay.h"

namespace moai::engine {
namespace {

namespace fs = std::filesystem;

// A folder of a test's own, gone at its end.
struct Folder {
  fs::path path = fs::temp_directory_path() / concat("moai-plan-cache-test-", getpid());
  Folder() { fs::remove_all(path); }
  ~Folder() { fs::remove_all(path); }

  std::vector<fs::path> files() const {
    std::vector<fs::path> all;
    for (const auto& entry : fs::recursive_directory_iterator(path)) {
      if (entry.is_regular_file()) all.push_back(entry.path());
    }
    return all;
  }
};

std::string text_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

void write(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

KeptPlan some_plan() {
  const Prediction predicted{0.1, 1.0 / 3, 0, 0.5, 1e9, 0.25, 7, false, true};
  return {"{\n \"moai_plan\": 1\n}\n", "data 4; \"quoted\"", std::make_shared<const Prediction>(predicted)};
}

TEST_CASE("what_is_kept_is_found_again_and_only_for_its_question") {
  const Folder folder;
  const PlanCache cache(folder.path.string());
  CHECK_FALSE(cache.find("a question"));
  cache.keep("a question", some_plan());
  const auto found = cache.find("a question");
  REQUIRE(found);
  CHECK(found->plan == some_plan().plan);
  CHECK(found->layout == some_plan().layout);
  CHECK(found->predicted->compute_seconds == 1.0 / 3);
  CHECK(found->predicted->was_kept);
  CHECK(found->predicted->is_corrected);
  CHECK_FALSE(cache.find("another question"));
  // A file that bears another question's name.
  const auto file = folder.files().at(0);
  cache.keep("another question", some_plan());
  for (const auto& other : folder.files()) {
    if (other != file) fs::copy_file(file, other, fs::copy_options::overwrite_existing);
  }
  CHECK_FALSE(cache.find("another question"));
}

TEST_CASE("a_damaged_file_is_as_good_as_none_and_is_replaced") {
  const Folder folder;
  const PlanCache cache(folder.path.string());
  cache.keep("q", some_plan());
  const auto file = folder.files().at(0);
  const std::string good = text_of(file);
  std::mt19937 random(1);
  for (int i = 0; i < 2000; ++i) {
    std::string bad = good;
    const auto at = random() % bad.size();
    switch (random() % 4) {
      case 0: bad[at] = static_cast<char>(bad[at] ^ (1 << random() % 8)); break;
      case 1: bad.resize(at); break;
      case 2: bad.insert(at, 1 + random() % 9, static_cast<char>(random())); break;
      default: bad.erase(at, 1 + random() % 9); break;
    }
    if (bad == good) continue;
    INFO(bad);
    write(file, bad);
    REQUIRE_FALSE(cache.find("q"));
  }
  cache.keep("q", some_plan());
  CHECK(text_of(file) == good);
}

TEST_CASE("a_cache_that_cannot_be_written_is_silent") {
  const Folder folder;
  fs::create_directories(folder.path);
  write(folder.path / "file", "");
  const PlanCache cache((folder.path / "file" / "plans").string());
  cache.keep("q", some_plan());
  CHECK_FALSE(cache.find("q"));
  CHECK_FALSE(PlanCache("").find("q"));
}

TEST_CASE("the_oldest_go_when_there_are_too_many") {
  const Folder folder;
  const PlanCache cache(folder.path.string());
  for (int i = 0; i < 513; ++i) {
    cache.keep(concat("q", i), some_plan());
    if (i == 0)
      fs::last_write_time(folder.files().at(0), fs::file_time_type::clock::now() - std::chrono::hours(1));
  }
  CHECK(folder.files().size() == 384);
  CHECK_FALSE(cache.find("q0"));
  CHECK(cache.find("q512"));
}

TEST_CASE("many_may_write_at_once_and_readers_see_whole_files") {
  const Folder folder;
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      const PlanCache cache(folder.path.string());
      for (int i = 0; i < 200; ++i) {
        KeptPlan plan = some_plan();
        plan.plan = std::string(static_cast<size_t>(1 + t) * 1000, static_cast<char>('a' + t));
        cache.keep("q", plan);
        const auto found = cache.find("q");
        if (!found || found->plan.find_first_not_of(found->plan[0]) != std::string::npos) ++wrong;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(wrong == 0);
  CHECK(folder.files().size() == 1);
}

// A step of training that data parallelism, turns and recomputation are possible for.
ir::Graph step_of(int batch) {
  const std::string b = std::to_string(batch);
  return ir::parse("graph(%x: f32[" + b +
                   ",32], %w: f32[32,64], %v: f32[64,32]) numbers(f, f) {\n"
                   "  %h: f32[" +
                   b +
                   ",64] = aten.mm(%x, %w)\n"
                   "  %g: f32[" +
                   b +
                   ",64] = aten.relu(%h)\n"
                   "  %o: f32[" +
                   b +
                   ",32] = aten.mm(%g, %v)\n"
                   "  %gt: f32[64," +
                   b +
                   "] = aten.permute(%g, [1,0])\n"
                   "  %dv: f32[64,32] = !bw aten.mm(%gt, %o)\n"
                   "  %v2@0: f32[64,32] = aten.add_.Tensor(%v, %dv, n0)\n"
                   "  return %v2\n}");
}

KeptPlan kept_of(const Choice& choice) { return {choice.saved, choice.layout, choice.predicted}; }

Choice choose(Chooser& chooser, const ir::Graph& graph, bool* was_kept) {
  auto kept = chooser.kept(graph, {});
  *was_kept = kept.has_value();
  if (kept) return std::move(*kept);
  Choice choice = chooser.choose(graph, {});
  chooser.keep(graph, {}, kept_of(choice));
  return choice;
}

Settings settings_of(const Folder& folder, const std::string& plan, int devices = 4, int64_t memory = -1,
                     const std::string& build = "b") {
  return {devices, memory, plan, folder.path.string(), "", build};
}

TEST_CASE("another_process_follows_the_same_plan_without_a_search") {
  for (const char* plan :
       {"fastest", "dp=2,tp=2", "dp=4,micro=2", "dp=4,zero=3", "dp=4,recompute=full", "pp=2,micro=2"}) {
    INFO(plan);
    const Folder folder;
    const ir::Graph graph = step_of(16);
    bool was_kept = false;
    Chooser first(settings_of(folder, plan));
    const Choice chosen = choose(first, graph, &was_kept);
    CHECK_FALSE(was_kept);
    Chooser second(settings_of(folder, plan));
    stats().reset();
    const Choice again = choose(second, graph, &was_kept);
    REQUIRE(was_kept);
    CHECK(stats().searches == 0);
    CHECK(stats().kept_plans == 1);
    CHECK(ir::print(again.graph) == ir::print(chosen.graph));
    CHECK(again.mesh.sizes() == chosen.mesh.sizes());
    CHECK(again.loop.turns == chosen.loop.turns);
    CHECK(again.stages.groups == chosen.stages.groups);
    CHECK(again.stages.of_node == chosen.stages.of_node);
    CHECK((again.stages.schedule == nullptr) == (chosen.stages.schedule == nullptr));
    CHECK(again.layout == chosen.layout);
    CHECK(again.predicted->step_seconds == chosen.predicted->step_seconds);
    for (size_t i = 0; i < chosen.graph.inputs().size(); ++i)
      CHECK(again.assignment.inputs[i] == chosen.assignment.inputs[i]);
    for (size_t n = 0; n < chosen.graph.nodes().size(); ++n) {
      CHECK(again.assignment.nodes[n].choices == chosen.assignment.nodes[n].choices);
      CHECK(again.assignment.nodes[n].operands == chosen.assignment.nodes[n].operands);
    }
  }
}

TEST_CASE("another_question_is_searched_for") {
  const Folder folder;
  bool was_kept = false;
  Chooser first(settings_of(folder, "fastest"));
  choose(first, step_of(16), &was_kept);
  const auto asks = [&](const Settings& settings, const ir::Graph& graph) {
    Chooser chooser(settings);
    choose(chooser, graph, &was_kept);
    return was_kept;
  };
  CHECK(asks(settings_of(folder, "fastest"), step_of(16)));
  CHECK_FALSE(asks(settings_of(folder, "fastest"), step_of(24)));
  CHECK_FALSE(asks(settings_of(folder, "dp=4"), step_of(16)));
  CHECK_FALSE(asks(settings_of(folder, "fastest", 2), step_of(16)));
  CHECK_FALSE(asks(settings_of(folder, "fastest", 4, 1 << 30), step_of(16)));
  CHECK_FALSE(asks(settings_of(folder, "fastest", 4, -1, "another build"), step_of(16)));
}

// Under a step's name, whole and with the right hash, lies a plan that is no plan of the step.
TEST_CASE("a_plan_that_cannot_be_followed_is_ignored_and_replaced") {
  const Folder folder;
  const ir::Graph graph = step_of(16);
  bool was_kept = false;
  Chooser first(settings_of(folder, "fastest"));
  const Choice chosen = choose(first, graph, &was_kept);
  const auto file = folder.files().at(0);
  const std::string text = text_of(file);
  const size_t line = text.find('\n');
  const std::string question = text.substr(line + 1, std::stoul(text.substr(text.rfind(' ', line) + 1)));
  const PlanCache cache((folder.path / "plans").string());
  REQUIRE(cache.find(question));
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string plan = chosen.saved;
    const size_t at = plan.find(from);
    REQUIRE(at != std::string::npos);
    return plan.replace(at, from.size(), to);
  };
  for (const auto& plan :
       {std::string(), std::string("[]"), replaced("aten.mm", "aten.nn"),
        replaced("\"mesh\": [4]", "\"mesh\": [8]"), replaced("\"at\": 0", "\"at\": 999"),
        replaced("\"micro_batches\": 1", "\"micro_batches\": 3"), replaced("\"stages\": 1", "\"stages\": 2"),
        replaced(chosen.saved.substr(chosen.saved.find("\"nodes\"")), "\"nodes\": []}")}) {
    INFO(plan);
    cache.keep(question, {plan, "wrong", nullptr});
    Chooser second(settings_of(folder, "fastest"));
    CHECK(choose(second, graph, &was_kept).layout == chosen.layout);
    CHECK_FALSE(was_kept);
    Chooser third(settings_of(folder, "fastest"));
    choose(third, graph, &was_kept);
    CHECK(was_kept);
  }
}

// A step that trains nothing depends on where its inputs lie.
TEST_CASE("where_inputs_lie_is_part_of_the_question") {
  const Folder folder;
  const auto graph = ir::parse(R"(graph(%x: f32[8,8], %w: f32[8,8]) {
    %y: f32[8,8] = aten.mm(%x, %w)
    return %y
  })");
  const auto whole = std::make_shared<const runtime::Sharding>(runtime::Sharding::replicated(256, 4));
  std::vector<std::vector<runtime::Sharding::Digits>> rows;
  for (int64_t d = 0; d < 4; ++d) rows.push_back({{{8, 2 * d, 2}}, {{8, 0, 8}}});
  const auto cut = std::make_shared<const runtime::Sharding>(graph.type(1), rows);
  Chooser first(settings_of(folder, "fastest"));
  first.keep(graph, {nullptr, whole}, kept_of(first.choose(graph, {nullptr, whole})));
  first.keep(graph, {nullptr, cut}, kept_of(first.choose(graph, {nullptr, cut})));
  CHECK(folder.files().size() == 2);
  Chooser second(settings_of(folder, "fastest"));
  const auto kept = second.kept(graph, {nullptr, cut});
  REQUIRE(kept);
  CHECK(sharding_of(*kept, kept->graph.inputs()[1], kept->assignment.inputs[1]) == *cut);
  CHECK_FALSE(second.kept(graph, {cut, whole}));
}

// Where messages turn out to be a thousand times dearer, a plan with fewer of them is the better one.
TEST_CASE("corrected_figures_change_the_choice") {
  const Folder folder;
  const ir::Graph graph = step_of(4096);
  Chooser chooser({4, -1, "", "", "", "b"});
  REQUIRE(chooser.is_free());
  const Choice before = chooser.choose(graph, {});
  CHECK_FALSE(before.predicted->is_corrected);
  chooser.correct({2, 2});
  const Choice slower = chooser.choose(graph, {});
  CHECK(slower.predicted->is_corrected);
  CHECK(slower.saved == before.saved);
  CHECK(slower.predicted->step_seconds == Approx(2 * before.predicted->step_seconds));
  chooser.correct({0.5, 1e4});
  const Choice quiet = chooser.choose(graph, {});
  CHECK(quiet.saved != before.saved);
  CHECK(quiet.predicted->communicate_seconds / 2e4 < before.predicted->communicate_seconds);
  CHECK_FALSE(Chooser({4, -1, "dp=4", "", "", "b"}).is_free());
}

}  // namespace
}  // namespace moai::engine
