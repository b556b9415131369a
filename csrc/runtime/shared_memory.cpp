#include "runtime/shared_memory.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <utility>

#include "runtime/parker.h"
#include "runtime/pieces.h"
#include "runtime/reduce.h"

namespace moai::runtime {

namespace {

// Bytes of one member's buffer in a chunk: several chunks for each member, so that they share the work
// evenly, but not so small that claiming them shows.
constexpr int64_t kLeastChunk = int64_t{16} << 10;
constexpr int64_t kMostChunk = int64_t{256} << 10;
constexpr int64_t kChunksEach = 4;

// One collective of a bucket: its pieces, and every participant's buffers.
struct Part {
  Collective what;
  int64_t element_bytes = 0;
  std::vector<const void*> in;  // by participant
  std::vector<void*> out;
  std::vector<Piece> pieces;
  std::vector<int64_t> first_chunk;  // by piece, among the bucket's chunks
  int64_t chunk_elements = 1;

  Part(const Collective& collective, int members)
      : what(collective),
        element_bytes(ir::element_bytes(collective.dtype)),
        in(static_cast<size_t>(members)),
        out(static_cast<size_t>(members)),
        pieces(pieces_of(collective, members)) {}
  int64_t bytes() const {
    int64_t elements = 0;
    for (const Piece& piece : pieces) elements += piece.box.elements();
    return elements * element_bytes;
  }
  void run(int64_t chunk) const;
};

void Part::run(int64_t chunk) const {
  const auto at = std::upper_bound(first_chunk.begin(), first_chunk.end(), chunk) - first_chunk.begin() - 1;
  const Piece& piece = pieces[at];
  const int64_t start = (chunk - first_chunk[at]) * chunk_elements;
  const int64_t end = std::min(start + chunk_elements, piece.box.elements());
  const auto members = static_cast<int>(in.size());
  const auto range = [&](int rank) {
    return rank == kAll ? std::pair(0, members) : std::pair(rank, rank + 1);
  };
  const auto [first_source, end_source] = range(piece.source);
  const auto [first_target, end_target] = range(piece.target);
  std::vector<const void*> sources(end_source - first_source);
  std::vector<void*> targets(end_target - first_target);
  for_runs(piece.box, start, end, [&](int64_t source, int64_t target, int64_t count) {
    for (int s = first_source; s < end_source; ++s) {
      sources[s - first_source] = static_cast<const char*>(in[s]) + source * element_bytes;
    }
    int wanted = 0;
    for (int t = first_target; t < end_target; ++t) {
      // The root of a broadcast may want none.
      if (out[t] != nullptr) targets[wanted++] = static_cast<char*>(out[t]) + target * element_bytes;
    }
    if (what.reduces()) {
      return reduce(what.dtype, what.reduce, sources.data(), members, targets.data(), wanted, count);
    }
    for (int t = 0; t < wanted; ++t) {
      if (targets[t] != sources[0]) std::memcpy(targets[t], sources[0], count * element_bytes);
    }
  });
}

// A bucket in flight. Set up by the first member to start it; a member's buffers and the work are
// published by `started`, results by `done`.
struct Op {
  std::vector<int> devices;  // that take part
  int first_device;          // that started it first
  std::vector<Part> parts;
  std::vector<int64_t> first_chunk;  // by part
  int64_t chunks = 0;
  std::atomic<int> started{0};
  std::atomic<int64_t> next{0};  // chunk to be claimed
  std::atomic<int64_t> done{0};

  Op(const std::vector<Share>& bucket, std::vector<int> devices_in, int first);
  bool is_same(const std::vector<Share>& bucket) const {
    return std::equal(parts.begin(), parts.end(), bucket.begin(), bucket.end(),
                      [](const Part& part, const Share& share) { return part.what == share.what; });
  }
  std::string words() const { return bucket_words(parts.front().what, parts.size()); }
  bool is_ready() const {
    return started.load(std::memory_order_acquire) == static_cast<int>(devices.size());
  }
  bool is_done() const { return is_ready() && done.load(std::memory_order_acquire) == chunks; }
  void run(int64_t chunk) const {
    const auto after = std::upper_bound(first_chunk.begin(), first_chunk.end(), chunk);
    parts[after - first_chunk.begin() - 1].run(chunk);
  }
};

Op::Op(const std::vector<Share>& bucket, std::vector<int> devices_in, int first)
    : devices(std::move(devices_in)), first_device(first) {
  const auto members = static_cast<int>(devices.size());
  int64_t all = 0;
  for (const Share& share : bucket) all += parts.emplace_back(share.what, members).bytes();
  // Whole cache lines, so that no two threads write to one.
  const int64_t bytes = std::clamp(all / (kChunksEach * members), kLeastChunk, kMostChunk) / 64 * 64;
  for (Part& part : parts) {
    first_chunk.push_back(chunks);
    part.chunk_elements = bytes / part.element_bytes;
    for (const Piece& piece : part.pieces) {
      part.first_chunk.push_back(chunks);
      chunks += (piece.box.elements() + part.chunk_elements - 1) / part.chunk_elements;
    }
  }
}

// The buckets of a group, or the sends of one rank to another: the n-th of each participant are one.
struct Lane {
  std::deque<std::shared_ptr<Op>> open;  // not yet started by all
  uint64_t first_open = 0;               // number of open.front()
  std::vector<uint64_t> started;         // by participant
};

struct Group {
  std::vector<int> devices;
  std::mutex lock;
  Lane collectives;                              // guarded by lock
  std::map<std::pair<int, int>, Lane> messages;  // by sender and receiver; likewise
};

}  // namespace

struct SharedMemory::World {
  explicit World(std::vector<std::string> names_in)
      : names(std::move(names_in)), parkers(new Parker[names.size()]), times(new Times[names.size()]) {}

  struct Times {
    std::atomic<int64_t> moving_ns{0};
    std::atomic<int64_t> waiting_ns{0};
  };

  const std::vector<std::string> names;
  const std::unique_ptr<Parker[]> parkers;  // by device: where its threads wait
  const std::unique_ptr<Times[]> times;     // by device
  std::mutex lock;
  std::map<std::pair<std::vector<int>, int>, std::shared_ptr<Group>> groups;  // guarded by lock
  std::string reason;                                                         // likewise
  std::atomic<bool> failed{false};
  // Threads that touch buffers. With `failed`, a pair of flags: a thread that enters looks at `failed`
  // after it is counted, one that fails counts after it has set it.
  std::atomic<int64_t> active{0};
  Parker quiet;

  bool enter() {
    active.fetch_add(1);
    if (!failed.load()) return true;
    leave();
    return false;
  }
  void leave() {
    if (active.fetch_sub(1) == 1 && failed.load()) quiet.wake();
  }
  void wait_until_quiet() {
    quiet.wait([this] { return active.load() == 0; });
  }

  void fail(int device, const std::string& why) {
    {
      const std::lock_guard<std::mutex> guard(lock);
      if (!failed.load()) {
        reason = device == kNoDevice ? why : concat(names[device], " failed: ", why);
        failed.store(true);
      }
    }
    for (size_t d = 0; d < names.size(); ++d) parkers[d].wake();
    wait_until_quiet();
  }

  [[noreturn]] void give_up(const std::string& what, int device) {
    wait_until_quiet();
    const std::lock_guard<std::mutex> guard(lock);
    Cancelled error(Phase::kRun, concat(what, " on ", names[device], " was given up"));
    error.detail(reason);
    throw error;
  }
};

namespace {

using World = SharedMemory::World;
using Clock = std::chrono::steady_clock;

int64_t ns(Clock::duration duration) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count();
}

class SharedWork final : public Work {
 public:
  SharedWork(std::shared_ptr<World> world, std::shared_ptr<Op> op, int device)
      : world_(std::move(world)), op_(std::move(op)), device_(device) {}

  ~SharedWork() override {
    if (op_ == nullptr || op_->is_done()) return;
    world_->fail(device_, concat("it left ", op_->words(), " before its end"));
  }

  void wait() override {
    const auto op = std::exchange(op_, nullptr);
    MOAI_ASSERT(op != nullptr, "a collective was waited for twice");
    Parker& parker = world_->parkers[device_];
    const auto begin = Clock::now();
    parker.wait([&] { return op->is_ready() || world_->failed.load(); });
    const auto ready = Clock::now();
    if (op->is_ready()) work(*op);
    parker.wait([&] { return op->is_done() || world_->failed.load(); });
    auto& times = world_->times[device_];
    times.waiting_ns.fetch_add(ns(ready - begin), std::memory_order_relaxed);
    times.moving_ns.fetch_add(ns(Clock::now() - ready), std::memory_order_relaxed);
    if (!op->is_done()) world_->give_up(op->words(), device_);
  }

 private:
  void work(Op& op) {
    while (op.next.load(std::memory_order_relaxed) < op.chunks && world_->enter()) {
      const int64_t chunk = op.next.fetch_add(1, std::memory_order_relaxed);
      const bool mine = chunk < op.chunks;
      if (mine) op.run(chunk);
      const bool last = mine && op.done.fetch_add(1, std::memory_order_acq_rel) + 1 == op.chunks;
      world_->leave();
      if (last) wake_others(op);
    }
  }

  void wake_others(const Op& op) {
    for (const int device : op.devices) {
      if (device != device_) world_->parkers[device].wake();
    }
  }

  std::shared_ptr<World> world_;
  std::shared_ptr<Op> op_;  // null once waited for
  int device_;
};

class SharedCommunicator final : public Communicator {
 public:
  SharedCommunicator(std::shared_ptr<World> world, std::shared_ptr<Group> group, int rank)
      : world_(std::move(world)), group_(std::move(group)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(group_->devices.size()); }

  using Communicator::start;
  WorkPtr start(const std::vector<Share>& bucket) override {
    verify(bucket, size());
    const int device = group_->devices[rank_];
    if (world_->failed.load()) world_->give_up(bucket_words(bucket.front().what, bucket.size()), device);
    std::shared_ptr<Op> op;
    bool ready = false;
    {
      const std::lock_guard<std::mutex> guard(group_->lock);
      const auto [joined, participant] = join(bucket);
      op = joined;
      for (size_t p = 0; p < bucket.size(); ++p) {
        op->parts[p].in[participant] = bucket[p].in;
        op->parts[p].out[participant] = bucket[p].out;
      }
      const auto count = static_cast<int>(op->devices.size());
      ready = op->started.fetch_add(1, std::memory_order_acq_rel) + 1 == count;
    }
    auto work = std::make_unique<SharedWork>(world_, op, device);
    if (ready) {
      for (const int other : op->devices) {
        if (other != device) world_->parkers[other].wake();
      }
    }
    return work;
  }

 private:
  // The op that this member's start belongs to, and as which participant. Called with the group's lock held.
  std::pair<std::shared_ptr<Op>, int> join(const std::vector<Share>& bucket) {
    const Collective& what = bucket.front().what;
    const bool sends = what.kind == Collective::Kind::kSend;
    if (!sends && what.kind != Collective::Kind::kReceive) {
      return {next_of(group_->collectives, bucket, group_->devices, rank_), rank_};
    }
    const int sender = sends ? rank_ : what.peer;
    const int receiver = sends ? what.peer : rank_;
    const int participant = sends ? 0 : 1;
    return {
        next_of(group_->messages[{sender, receiver}], {{Collective::send(what.dtype, what.sizes, receiver)}},
                {group_->devices[sender], group_->devices[receiver]}, participant),
        participant};
  }

  std::shared_ptr<Op> next_of(Lane& lane, const std::vector<Share>& bucket, const std::vector<int>& devices,
                              int participant) {
    lane.started.resize(devices.size());
    const uint64_t number = lane.started[participant];
    if (number - lane.first_open == lane.open.size())
      lane.open.push_back(std::make_shared<Op>(bucket, devices, devices[participant]));
    const auto op = lane.open[number - lane.first_open];
    if (!op->is_same(bucket)) {
      throw Error(Phase::kRun, concat("devices disagree on a group's next collective: ",
                                      world_->names[devices[participant]], " starts ",
                                      bucket_words(bucket.front().what, bucket.size()), ", ",
                                      world_->names[op->first_device], " started ", op->words()));
    }
    ++lane.started[participant];
    while (!lane.open.empty() && is_started_by_all(lane)) {
      lane.open.pop_front();
      ++lane.first_open;
    }
    return op;
  }

  static bool is_started_by_all(const Lane& lane) {
    return *std::min_element(lane.started.begin(), lane.started.end()) > lane.first_open;
  }

  std::shared_ptr<World> world_;
  std::shared_ptr<Group> group_;
  int rank_;
};

}  // namespace

SharedMemory::SharedMemory(std::vector<std::string> devices)
    : world_(std::make_shared<World>(std::move(devices))) {}

SharedMemory::~SharedMemory() = default;

int SharedMemory::device_count() const { return static_cast<int>(world_->names.size()); }

std::unique_ptr<Communicator> SharedMemory::join(const std::vector<int>& devices, int device, int channel) {
  std::vector<int> sorted = devices;
  std::sort(sorted.begin(), sorted.end());
  const auto found = std::find(devices.begin(), devices.end(), device);
  MOAI_ASSERT(found != devices.end(), "device ", device, " is not of the group");
  MOAI_ASSERT(std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end(),
              "a device is twice in a group");
  MOAI_ASSERT(sorted.front() >= 0 && sorted.back() < device_count(), "there is no device ", sorted.back());
  const std::lock_guard<std::mutex> guard(world_->lock);
  auto& group = world_->groups[{devices, channel}];
  if (group == nullptr) {
    group = std::make_shared<Group>();
    group->devices = devices;
  }
  return std::make_unique<SharedCommunicator>(world_, group, static_cast<int>(found - devices.begin()));
}

WaitTimes SharedMemory::wait_times(int device) const {
  const auto& times = world_->times[device];
  return {times.moving_ns.load(std::memory_order_relaxed), times.waiting_ns.load(std::memory_order_relaxed)};
}

void SharedMemory::fail(int device, const std::string& why) { world_->fail(device, why); }

void SharedMemory::reset() {
  const std::lock_guard<std::mutex> guard(world_->lock);
  for (auto& [key, group] : world_->groups) {
    const std::lock_guard<std::mutex> inner(group->lock);
    group->collectives = {};
    group->messages.clear();
  }
  world_->reason.clear();
  world_->failed.store(false);
}

}  // namespace moai::runtime
