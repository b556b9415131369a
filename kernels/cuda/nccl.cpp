#include "kernels/cuda/nccl.h"

#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>

#include "kernels/cuda/event.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/nccl_types.h"
#include "runtime/contiguous_calls.h"

namespace moai::cuda {

namespace {

using runtime::Cancelled;
using runtime::Collective;
using runtime::ContiguousCall;
using runtime::Place;
using Clock = std::chrono::steady_clock;

class Member;

struct Id {
  ncclUniqueId id{};
  size_t joined = 0;
};

// What the members share.
struct World {
  std::vector<int> gpus;  // by device
  std::chrono::milliseconds patience;

  std::mutex lock;                                     // of what follows; taken before a member's
  std::map<std::pair<std::vector<int>, int>, Id> ids;  // of groups that some have joined, and some not yet
  std::set<Member*> members;
  std::string why;
  std::atomic<bool> failed{false};
  std::vector<std::atomic<int64_t>> moving_ns;  // by device

  World(std::vector<int> gpus_in, std::chrono::milliseconds patience_in)
      : gpus(std::move(gpus_in)), patience(patience_in), moving_ns(gpus.size()) {}

  std::string name(int device) const { return concat("cuda:", gpus[static_cast<size_t>(device)]); }

  void check() {
    if (!failed.load()) return;
    const std::lock_guard<std::mutex> guard(lock);
    throw Cancelled(Phase::kRun, why);
  }
  void progress(int device);
  void fail(int device, const std::string& reason);
  void reset();
};

// A staging buffer, in the order of a stream.
class Staging {
 public:
  Staging(int64_t bytes, const c10::cuda::CUDAStream& stream) {
    if (bytes > 0)
      data_ = c10::cuda::CUDACachingAllocator::raw_alloc_with_stream(static_cast<size_t>(bytes), stream);
  }
  ~Staging() {
    if (data_ != nullptr) c10::cuda::CUDACachingAllocator::raw_delete(data_);
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

// One collective of a bucket.
struct Part {
  Collective collective;
  runtime::ContiguousCalls plan;
  const void* in = nullptr;
  void* out = nullptr;
  Staging staging;

  Part(const runtime::Share& share, int rank, int members, const c10::cuda::CUDAStream& stream)
      : collective(share.what),
        plan(runtime::contiguous_calls(collective, rank, members)),
        in(share.in),
        out(share.out),
        staging(plan.staging_elements * width(), stream) {}
  int64_t width() const { return ir::element_bytes(collective.dtype); }
  char* at(const Place& place) const {
    const void* base = place.of == Place::Of::kIn ? in : place.of == Place::Of::kOut ? out : staging.data();
    if (base == nullptr) return nullptr;
    return static_cast<char*>(const_cast<void*>(base)) + place.offset * width();
  }
};

// A bucket on its way: NCCL takes one at a time, and may need the peers before it has taken it.
struct Launch {
  enum class State : uint8_t { kQueued, kTaken, kInStream };
  State state = State::kQueued;
  std::deque<Part> parts;
  Event computed;  // what it reads is there
  Event done;

  std::string doing() const {
    return "runs " + runtime::bucket_words(parts.front().collective, parts.size());
  }
};

class Member final : public runtime::Communicator {
 public:
  Member(std::shared_ptr<World> world, std::vector<int> devices, int device, int channel)
      : world_(std::move(world)),
        devices_(std::move(devices)),
        device_(device),
        channel_(channel),
        rank_(static_cast<int>(std::find(devices_.begin(), devices_.end(), device) - devices_.begin())),
        gpu_(gpu(world_->gpus[static_cast<size_t>(device)])),
        stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/true, gpu_.index)) {
    const std::lock_guard<std::mutex> guard(world_->lock);
    if (!world_->failed.load()) initialise();
    world_->members.insert(this);
  }
  ~Member() override {
    const std::lock_guard<std::mutex> guard(world_->lock);
    world_->members.erase(this);
    abort();
  }
  Member(const Member&) = delete;
  Member& operator=(const Member&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(devices_.size()); }
  int device() const { return device_; }
  World& world() const { return *world_; }
  using Communicator::start;
  runtime::WorkPtr start(const std::vector<runtime::Share>& bucket) override;

  // Begins to make the communicator; the world's lock is held.
  void initialise() {
    const auto key = std::make_pair(devices_, channel_);
    Id& id = world_->ids[key];
    if (id.joined == 0) check(ncclGetUniqueId(&id.id), "begins a group");
    const std::lock_guard<std::mutex> guard(lock_);
    const c10::cuda::CUDAGuard on(gpu_.index);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    check(ncclCommInitRankConfig(&comm_, size(), id.id, rank_, &config), "joins a group");
    if (++id.joined == devices_.size()) world_->ids.erase(key);
  }

  // After which no kernel of NCCL touches a buffer.
  void abort() {
    const std::lock_guard<std::mutex> guard(lock_);
    const c10::cuda::CUDAGuard on(gpu_.index);
    if (comm_ != nullptr) static_cast<void>(ncclCommAbort(std::exchange(comm_, nullptr)));
    C10_CUDA_IGNORE_ERROR(cudaStreamSynchronize(stream_));
    queue_.clear();
  }

  // Brings what was started on its way as far as NCCL goes along. Throws what NCCL has found out since.
  void progress() {
    const std::lock_guard<std::mutex> guard(lock_);
    const c10::cuda::CUDAGuard on(gpu_.index);
    while (!queue_.empty() && comm_ != nullptr && settled(queue_.front()->doing())) {
      Launch& launch = *queue_.front();
      if (launch.state == Launch::State::kQueued) {
        launch.computed.block(stream_);
        for (const Part& part : launch.parts) copy(part, part.plan.before);
        check(ncclGroupStart(), launch.doing());
        for (const Part& part : launch.parts) {
          for (const ContiguousCall& one : part.plan.calls) check(call(part, one), launch.doing());
        }
        check(ncclGroupEnd(), launch.doing());
        launch.state = Launch::State::kTaken;
      } else {
        for (const Part& part : launch.parts) copy(part, part.plan.after);
        launch.done.record(stream_);
        launch.state = Launch::State::kInStream;
        queue_.pop_front();
      }
    }
  }

  bool is_done(const Launch& launch) {
    const std::lock_guard<std::mutex> guard(lock_);
    if (comm_ == nullptr) return false;  // aborted: the world says why
    static_cast<void>(settled(launch.doing()));
    return launch.state == Launch::State::kInStream && launch.done.is_past();
  }

 private:
  void check(ncclResult_t result, const std::string& doing) const {
    if (result == ncclSuccess || result == ncclInProgress) return;
    const char* last = comm_ == nullptr ? nullptr : ncclGetLastError(comm_);
    throw nccl_error(result, doing, last == nullptr ? "" : last);
  }
  // Whether NCCL has done what it was told without blocking.
  bool settled(const std::string& doing) const {
    ncclResult_t state = ncclSuccess;
    check(ncclCommGetAsyncError(comm_, &state), doing);
    check(state, doing);
    return state != ncclInProgress;
  }

  void copy(const Part& part, const std::vector<runtime::LocalCopy>& copies) const;
  ncclResult_t call(const Part& part, const ContiguousCall& call) const;

  const std::shared_ptr<World> world_;
  const std::vector<int> devices_;
  const int device_;
  const int channel_;
  const int rank_;
  const Gpu& gpu_;
  const c10::cuda::CUDAStream stream_;
  std::mutex lock_;  // of what follows
  ncclComm_t comm_ = nullptr;
  std::deque<std::shared_ptr<Launch>> queue_;  // not in the stream yet
};

class NcclWork final : public runtime::Work {
 public:
  NcclWork(Member& member, std::shared_ptr<Launch> launch) : member_(member), launch_(std::move(launch)) {}
  ~NcclWork() override {
    if (!is_waited_for_) member_.world().fail(member_.device(), launch_->doing() + " was given up");
  }
  NcclWork(const NcclWork&) = delete;
  NcclWork& operator=(const NcclWork&) = delete;

  // By the host: a failure has to be told before the next kernel reads what did not arrive. Meanwhile
  // everything that this device has started goes on, since peers may wait for that first.
  void wait() override {
    World& world = member_.world();
    const auto start = Clock::now();
    for (int turns = 0; !is_done(); ++turns) {
      world.check();
      if (Clock::now() - start > world.patience) throw too_long();
      constexpr int kSpins = 2000;
      if (turns > kSpins) std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    is_waited_for_ = true;
    const auto taken = std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start);
    world.moving_ns[static_cast<size_t>(member_.device())].fetch_add(taken.count());
  }

 private:
  bool is_done() {
    member_.world().progress(member_.device());
    return member_.is_done(*launch_);
  }
  Error too_long() const {
    const double seconds = std::chrono::duration<double>(member_.world().patience).count();
    return Error(Phase::kRun, concat("NCCL did not end within ", seconds, " s while it ", launch_->doing()))
        .hint("would help: to see whether every device is still at work; NCCL_DEBUG=INFO tells more");
  }

  Member& member_;
  const std::shared_ptr<Launch> launch_;
  bool is_waited_for_ = false;
};

runtime::WorkPtr Member::start(const std::vector<runtime::Share>& bucket) {
  world_->check();
  runtime::verify(bucket, size());
  const c10::cuda::CUDAGuard on(gpu_.index);
  auto launch = std::make_shared<Launch>();
  for (const runtime::Share& share : bucket) {
    const Collective& collective = share.what;
    if (collective.reduces() && !nccl_reduction(collective.dtype, collective.reduce))
      throw Error(Phase::kRun, concat(collective.str(), ": NCCL has no such reduction"))
          .hint("would work: the same in f32 or i32");
    launch->parts.emplace_back(share, rank_, size(), stream_);
  }
  launch->computed.record(gpu_.compute);
  {
    const std::lock_guard<std::mutex> guard(lock_);
    queue_.push_back(launch);
  }
  auto work = std::make_unique<NcclWork>(*this, std::move(launch));
  progress();
  return work;
}

void Member::copy(const Part& part, const std::vector<runtime::LocalCopy>& copies) const {
  const int64_t width = part.width();
  for (const runtime::LocalCopy& one : copies) {
    const runtime::Box& box = one.box;
    const auto row_of = [&](const Place& place, const runtime::Box::Side& side, int64_t row) {
      return part.at(place) + (side.offset + row * side.strides[0]) * width;
    };
    const auto pitch = [&](const runtime::Box::Side& side) {
      return static_cast<size_t>((box.rows[1] == 1 ? box.length : side.strides[1]) * width);
    };
    for (int64_t row = 0; row < box.rows[0]; ++row) {
      const char* from = row_of(one.from, box.source, row);
      char* to = row_of(one.to, box.target, row);
      if (from == to) continue;  // a part that lies in its own place
      C10_CUDA_CHECK(cudaMemcpy2DAsync(to, pitch(box.target), from, pitch(box.source),
                                       static_cast<size_t>(box.length * width),
                                       static_cast<size_t>(box.rows[1]), cudaMemcpyDeviceToDevice, stream_));
    }
  }
}

ncclResult_t Member::call(const Part& part, const ContiguousCall& call) const {
  using Kind = ContiguousCall::Kind;
  const Collective& collective = part.collective;
  const void* from = part.at(call.from);
  void* to = part.at(call.to);
  const NcclReduction reduction =
      collective.reduces() ? *nccl_reduction(collective.dtype, collective.reduce) : NcclReduction{};
  const auto count = static_cast<size_t>(call.count * reduction.parts);
  const auto bytes = static_cast<size_t>(call.count * part.width());
  switch (call.kind) {
    case Kind::kAllReduce:
      return ncclAllReduce(from, to, count, reduction.type, reduction.op, comm_, stream_);
    case Kind::kReduceScatter:
      return ncclReduceScatter(from, to, count, reduction.type, reduction.op, comm_, stream_);
    case Kind::kReduce:
      return ncclReduce(from, to, count, reduction.type, reduction.op, call.peer, comm_, stream_);
    case Kind::kAllGather: return ncclAllGather(from, to, bytes, ncclInt8, comm_, stream_);
    case Kind::kBroadcast:
      // The root's result may be nowhere.
      return ncclBroadcast(from, to == nullptr ? const_cast<void*>(from) : to, bytes, ncclInt8, call.peer,
                           comm_, stream_);
    case Kind::kSend: return ncclSend(from, bytes, ncclInt8, call.peer, comm_, stream_);
    case Kind::kReceive: return ncclRecv(to, bytes, ncclInt8, call.peer, comm_, stream_);
  }
  return ncclInvalidUsage;
}

void World::progress(int device) {
  const std::lock_guard<std::mutex> guard(lock);
  if (failed.load()) return;
  for (Member* member : members) {
    if (member->device() == device) member->progress();
  }
}

void World::fail(int device, const std::string& reason) {
  const std::lock_guard<std::mutex> guard(lock);
  if (failed.load()) return;
  why = device == runtime::kNoDevice ? reason : concat("given up, since ", name(device), " failed: ", reason);
  failed.store(true);
  for (Member* member : members) member->abort();
}

void World::reset() {
  const std::lock_guard<std::mutex> guard(lock);
  if (!failed.load()) return;
  ids.clear();
  why.clear();
  for (Member* member : members) member->initialise();
  failed.store(false);
}

class NcclTransport final : public runtime::Transport {
 public:
  NcclTransport(std::vector<int> gpus, std::chrono::milliseconds patience)
      : world_(std::make_shared<World>(std::move(gpus), patience)) {}

  int device_count() const override { return static_cast<int>(world_->gpus.size()); }
  std::unique_ptr<runtime::Communicator> join(const std::vector<int>& devices, int device,
                                              int channel) override {
    return std::make_unique<Member>(world_, devices, device, channel);
  }
  runtime::WaitTimes wait_times(int device) const override {
    return {world_->moving_ns[static_cast<size_t>(device)].load(), 0};
  }
  void fail(int device, const std::string& why) override { world_->fail(device, why); }
  void reset() override { world_->reset(); }

 private:
  const std::shared_ptr<World> world_;
};

}  // namespace

std::shared_ptr<runtime::Transport> make_nccl_transport(std::vector<int> gpus,
                                                        std::chrono::milliseconds patience) {
  return std::make_shared<NcclTransport>(std::move(gpus), patience);
}

}  // namespace moai::cuda

// For tests on a GPU: `count` numbers from the host through every collective of a group of one, one after the
// other, back to the host. Returns 0, or -1 with what went wrong in `log`.
extern "C" __attribute__((visibility("default"))) int moai_nccl_alone(const float* in, float* out,
                                                                      int64_t count, char* log,
                                                                      size_t log_bytes) {
  using moai::runtime::Collective;
  using moai::runtime::Reduce;
  try {
    constexpr auto kPatience = std::chrono::seconds(60);
    const auto memory = moai::cuda::make_memory(0);
    const auto transport = moai::cuda::make_nccl_transport({0}, kPatience);
    const auto group = transport->join({0}, 0);
    const int64_t bytes = count * static_cast<int64_t>(sizeof(float));
    void* from = memory->take(bytes);
    void* to = memory->take(bytes);
    memory->to_device(from, in, bytes);
    const moai::ir::Dims sizes{count};
    const auto dtype = moai::ir::DType::kF32;
    for (const auto& collective : {Collective::all_reduce(dtype, sizes, Reduce::kMean),
                                   Collective::all_gather(dtype, sizes, 0, {count}),
                                   Collective::reduce_scatter(dtype, sizes, 0, {count}, Reduce::kSum),
                                   Collective::all_to_all(dtype, sizes, {0, {count}}, {0, {count}}),
                                   Collective::broadcast(dtype, sizes, 0)}) {
      group->start(collective, from, to)->wait();
      std::swap(from, to);
    }
    group->start(Collective::barrier(), nullptr, nullptr)->wait();
    memory->to_host(out, from, bytes);
    memory->give_back(from, bytes);
    memory->give_back(to, bytes);
    return 0;
  } catch (const std::exception& error) {
    std::strncpy(log, error.what(), log_bytes - 1);
    log[log_bytes - 1] = '\0';
    return -1;
  }
}
