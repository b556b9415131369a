#include "kernels/cpu/torch_profiler.h"

#include <ATen/record_function.h>
#include <c10/util/ApproximateClock.h>
#include <kineto/libkineto.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace moai::cpu {

namespace {

using libkineto::ActivityType;

thread_local bool is_worker = false;
thread_local int depth = 0;  // ops within ops belong to the outermost

struct Call : at::ObserverContext {
  int64_t start_ns = 0;
};

struct Timed {
  std::string name;
  int64_t start_ns;
  int64_t end_ns;
};

// What workers computed since the session that is on began. One session is on at a time, as in torch.
struct Seen {
  std::mutex lock;
  std::vector<Timed> ops;
};

Seen& seen() {
  static auto* one = new Seen;
  return *one;
}

std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction&) {
  if (!is_worker || depth++ > 0) return nullptr;
  auto call = std::make_unique<Call>();
  call->start_ns = c10::getTime();
  return call;
}

void on_end(const at::RecordFunction& function, at::ObserverContext* context) {
  if (!is_worker) return;
  if (depth > 0) --depth;
  if (context == nullptr) return;
  auto& all = seen();
  const std::lock_guard<std::mutex> guard(all.lock);
  all.ops.push_back({function.name(), static_cast<Call*>(context)->start_ns, c10::getTime()});
}

class Session final : public libkineto::IActivityProfilerSession {
 public:
  ~Session() override { stop(); }

  void start() override {
    {
      const std::lock_guard<std::mutex> guard(seen().lock);
      seen().ops.clear();
    }
    handle_ = at::addGlobalCallback(
        at::RecordFunctionCallback(&on_start, &on_end).scopes({at::RecordScope::FUNCTION}));
  }

  void stop() override {
    if (handle_ == 0) return;
    at::removeCallback(handle_);
    handle_ = 0;
    const std::lock_guard<std::mutex> guard(seen().lock);
    ops_ = std::move(seen().ops);
    seen().ops.clear();
  }

  void processTrace(libkineto::ActivityLogger& logger) override { log(logger, 0, INT64_MAX); }
  void processTrace(libkineto::ActivityLogger& logger, libkineto::getLinkedActivityCallback, int64_t start_ns,
                    int64_t end_ns) override {
    log(logger, start_ns, end_ns);
  }

  std::vector<std::string> errors() override { return {}; }
  std::unique_ptr<libkineto::DeviceInfo> getDeviceInfo() override {
    return std::make_unique<libkineto::DeviceInfo>(0, 0, "moai", "moai 0");
  }
  std::vector<libkineto::ResourceInfo> getResourceInfos() override { return {{0, 0, 0, "worker"}}; }
  std::unique_ptr<libkineto::CpuTraceBuffer> getTraceBuffer() override { return std::move(buffer_); }

 private:
  void log(libkineto::ActivityLogger& logger, int64_t start_ns, int64_t end_ns) {
    buffer_ = std::make_unique<libkineto::CpuTraceBuffer>();
    buffer_->span = libkineto::TraceSpan(start_ns, end_ns, "moai");
    for (const auto& op : ops_) {
      if (op.end_ns < start_ns || op.start_ns > end_ns) continue;
      buffer_->emplace_activity(buffer_->span, ActivityType::CONCURRENT_KERNEL, op.name);
      auto& activity = *buffer_->activities.back();
      activity.startTime = op.start_ns;
      activity.endTime = op.end_ns;
      activity.log(logger);
    }
    buffer_->gpuOpCount = static_cast<int>(buffer_->activities.size());
  }

  at::CallbackHandle handle_ = 0;
  std::vector<Timed> ops_;
  std::unique_ptr<libkineto::CpuTraceBuffer> buffer_;
};

class WorkerProfiler final : public libkineto::IActivityProfiler {
 public:
  const std::string& name() const override {
    static const std::string name = "moai";
    return name;
  }
  const std::set<ActivityType>& availableActivities() const override {
    static const std::set<ActivityType> types{ActivityType::CONCURRENT_KERNEL};
    return types;
  }
  std::unique_ptr<libkineto::IActivityProfilerSession> configure(const std::set<ActivityType>& types,
                                                                 const libkineto::Config&) override {
    if (types.count(ActivityType::CONCURRENT_KERNEL) == 0) return nullptr;
    return std::make_unique<Session>();
  }
  std::unique_ptr<libkineto::IActivityProfilerSession> configure(int64_t, int64_t,
                                                                 const std::set<ActivityType>& types,
                                                                 const libkineto::Config& config) override {
    return configure(types, config);
  }
};

}  // namespace

void register_torch_profiler() {
  libkineto::api().registerProfilerFactory([] { return std::make_unique<WorkerProfiler>(); });
}

void mark_worker_thread() { is_worker = true; }

}  // namespace moai::cpu
