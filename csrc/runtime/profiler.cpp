#include "runtime/profiler.h"

#include <cstdio>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "ir/error.h"

namespace moai::runtime {

std::atomic<bool> Profiler::on_{false};

namespace {

struct Event {
  Profiler::Lane lane;
  int thread;
  std::string name;
  double start_us;
  double duration_us;
};

struct Profile {
  std::mutex lock;
  std::chrono::steady_clock::time_point begin;
  std::vector<Event> events;
  std::map<std::thread::id, int> threads;
};

Profile& profile() {
  static auto* one = new Profile;
  return *one;
}

double us(std::chrono::steady_clock::duration d) {
  return std::chrono::duration<double, std::micro>(d).count();
}

}  // namespace

void Profiler::start() {
  auto& p = profile();
  const std::lock_guard<std::mutex> guard(p.lock);
  p.events.clear();
  p.threads.clear();
  p.begin = std::chrono::steady_clock::now();
  on_.store(true);
}

void Profiler::add(Lane lane, std::string name, std::chrono::steady_clock::time_point start) {
  const auto end = std::chrono::steady_clock::now();
  auto& p = profile();
  const std::lock_guard<std::mutex> guard(p.lock);
  const int thread =
      p.threads.emplace(std::this_thread::get_id(), static_cast<int>(p.threads.size())).first->second;
  p.events.push_back({lane, thread, std::move(name), us(start - p.begin), us(end - start)});
}

void Profiler::stop(const std::string& path) {
  on_.store(false);
  auto& p = profile();
  const std::lock_guard<std::mutex> guard(p.lock);
  std::vector<Event> events = std::move(p.events);
  p.events.clear();
  std::FILE* file = std::fopen(path.c_str(), "w");
  if (file == nullptr)
    throw Error(Phase::kRun, concat("cannot write the trace to '", path, "'"))
        .hint("give a path in a folder that exists");
  std::fputs(
      "{\"traceEvents\":[\n"
      "{\"ph\":\"M\",\"pid\":0,\"name\":\"process_name\",\"args\":{\"name\":\"host\"}},\n"
      "{\"ph\":\"M\",\"pid\":1,\"name\":\"process_name\",\"args\":{\"name\":\"device 0\"}}",
      file);
  for (const auto& e : events) {
    // Names are those of ops and of ours: nothing in them needs escaping.
    std::fprintf(file, ",\n{\"ph\":\"X\",\"pid\":%d,\"tid\":%d,\"name\":\"%s\",\"ts\":%.3f,\"dur\":%.3f}",
                 e.lane == Lane::kHost ? 0 : 1, e.thread, e.name.c_str(), e.start_us, e.duration_us);
  }
  std::fputs("\n]}\n", file);
  const bool failed = std::ferror(file) != 0;
  if (std::fclose(file) != 0 || failed)
    throw Error(Phase::kRun, concat("could not write all of the trace to '", path, "'"));
}

}  // namespace moai::runtime
