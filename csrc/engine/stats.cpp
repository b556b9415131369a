#include "engine/stats.h"

namespace moai::engine {

Stats& stats() {
  static auto* all = new Stats;  // the worker may count while the process ends
  return *all;
}

void Stats::count_cut(const std::string& reason) {
  cuts.fetch_add(1, std::memory_order_relaxed);
  const std::lock_guard<std::mutex> guard(lock_);
  ++cut_reasons_[reason];
}

void Stats::count_at_once(const std::string& op) {
  ops_at_once.fetch_add(1, std::memory_order_relaxed);
  const std::lock_guard<std::mutex> guard(lock_);
  ++at_once_ops_[op];
}

std::map<std::string, int64_t> Stats::cut_reasons() const {
  const std::lock_guard<std::mutex> guard(lock_);
  return cut_reasons_;
}

std::map<std::string, int64_t> Stats::at_once_ops() const {
  const std::lock_guard<std::mutex> guard(lock_);
  return at_once_ops_;
}

void Stats::reset() {
  for (auto* count : {&ops,           &ops_at_once,     &ops_followed,     &cuts,     &traces,
                      &hits,          &launches,        &compiles,         &resizes,  &searches,
                      &kept_plans,    &reconsidered,    &losses_in_chunks, &failures, &bytes_to_device,
                      &bytes_to_host, &steps_run_again, &bytes_joined,     &steps,    &tokens,
                      &record_ns,     &call_ns,         &compile_ns,       &run_ns,   &wait_ns}) {
    count->store(0, std::memory_order_relaxed);
  }
  const std::lock_guard<std::mutex> guard(lock_);
  cut_reasons_.clear();
  at_once_ops_.clear();
}

}  // namespace moai::engine
