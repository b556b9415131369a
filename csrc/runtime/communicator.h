#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ir/error.h"
#include "ir/type.h"

namespace moai::runtime {

// How the members' values become one. Sums and means of bf16 and f16 are taken in f32 and rounded once;
// integers wrap; a NaN wins in kMax and kMin; kMean is of floating point only. On bool, kSum and kMax are
// "or", kProduct and kMin "and".
enum class Reduce : uint8_t { kSum, kProduct, kMax, kMin, kMean };
const char* reduce_name(Reduce reduce);

// How a tensor lies on the members of a group: whole on each, or cut along one dim, a contiguous part for
// each member in rank order. Parts may be uneven and empty.
struct Layout {
  int dim = -1;                // -1: whole on each member
  std::vector<int64_t> parts;  // sizes in `dim`, by rank; they add up to the whole's

  bool is_cut() const { return dim >= 0; }
  bool operator==(const Layout& other) const { return dim == other.dim && parts == other.parts; }
};

// One collective, as each member of the group describes it: a tensor that lies as `from` says comes to lie
// as `to` says. Every member's buffer is contiguous; how parts interleave in a whole follows from the sizes
// and the dim, so that a gather along an inner dim needs no permuted copy. `sizes` may be any view of the
// tensor that shows the dim that is cut: [3, heads, width] for a dim that holds fused query, key and value.
//
//   auto gather = Collective::all_gather(DType::kF32, {4, 7}, 1, {3, 4});  // member 0 has [4,3], 1 has [4,4]
struct Collective {
  enum class Kind : uint8_t {
    kAllReduce,
    kAllGather,
    kReduceScatter,
    kAllToAll,
    kBroadcast,
    kSend,
    kReceive,
  };
  Kind kind = Kind::kAllReduce;
  ir::DType dtype = ir::DType::kF32;
  ir::Dims sizes;  // of the whole tensor
  Layout from;     // what a member gives
  Layout to;       // what it gets
  Reduce reduce = Reduce::kSum;
  int peer = 0;  // broadcast: the rank that gives; send, receive: the rank at the other end

  static Collective all_reduce(ir::DType dtype, ir::Dims sizes, Reduce reduce);
  static Collective all_gather(ir::DType dtype, ir::Dims sizes, int dim, std::vector<int64_t> parts);
  static Collective reduce_scatter(ir::DType dtype, ir::Dims sizes, int dim, std::vector<int64_t> parts,
                                   Reduce reduce);
  // The dims may be the same: parts of other sizes.
  static Collective all_to_all(ir::DType dtype, ir::Dims sizes, Layout from, Layout to);
  static Collective broadcast(ir::DType dtype, ir::Dims sizes, int root);
  static Collective send(ir::DType dtype, ir::Dims sizes, int to);
  static Collective receive(ir::DType dtype, ir::Dims sizes, int from);
  // An all-reduce of nothing: its wait ends when every member has started it.
  static Collective barrier() { return all_reduce(ir::DType::kU8, {0}, Reduce::kSum); }

  bool reduces() const { return kind == Kind::kAllReduce || kind == Kind::kReduceScatter; }
  // Elements that member `rank` gives and gets.
  int64_t in_elements(int rank) const;
  int64_t out_elements(int rank) const;
  // `reduce_scatter(sum, f32[4,7], dim 1)`
  std::string str() const;

  bool operator==(const Collective& other) const;
  bool operator!=(const Collective& other) const { return !(*this == other); }
};

// Throws Error(Phase::kRun) when no group of `members` can run this: a dim or a rank out of range, parts
// that do not add up, a reduction that the type does not have.
void verify(const Collective& collective, int members);

// What a start or a wait throws when it was given up because another device failed, or because the run was
// cancelled: a consequence, never the cause.
class Cancelled : public Error {
 public:
  using Error::Error;
};

// A collective, and this member's buffers for it: see Communicator::start.
struct Share {
  Collective what;
  const void* in = nullptr;
  void* out = nullptr;
};

// Of a bucket of `count`: `all_reduce(sum, f32[8]) and 2 more`.
std::string bucket_words(const Collective& first, size_t count);

// Throws as verify of each does, and where a message is in a bucket.
void verify(const std::vector<Share>& bucket, int members);

// A collective, or a bucket of them, that was started. Used by one thread.
class Work {
 public:
  // Dropped before its wait, it fails its device (see Transport::fail), so that no peer uses buffers that
  // are going away.
  virtual ~Work() = default;
  // Blocks until this member's result is there and nobody reads what it gave. Once.
  // Throws Cancelled, after which nobody touches its buffers either.
  virtual void wait() = 0;
};
using WorkPtr = std::unique_ptr<Work>;

// One device's place in a group of devices: see Note [Rules of a group].
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Starts this member's share of collectives and returns at once. Several are a bucket: no messages are
  // among them, and to the group's order they are one.
  //
  // * `in` holds in_elements(rank()), `out` out_elements(rank()); either may be null where that is 0. A
  //   broadcast reads the root's `in` alone, and the root's `out` may be null.
  // * `in` and `out` are disjoint, or the same memory: in an all-reduce and a broadcast all of it; in a
  //   gather along the outermost dim `in` may be its own place in `out`, in a reduce-scatter along it `out`
  //   its own place in `in`.
  //
  // Throws Cancelled; Error(Phase::kRun) when it cannot be (see verify) or is not what the others started.
  virtual WorkPtr start(const std::vector<Share>& bucket) = 0;
  WorkPtr start(const Collective& collective, const void* in, void* out) {
    return start({{collective, in, out}});
  }
};

// Note [Rules of a group]
// ~~~~~~~~~~~~~~~~~~~~~~~
// Buffers: the caller owns them. From start until its wait has returned `in` may not be written, and `out`
// neither read nor written; afterwards both are the caller's again.
//
// Order: the n-th collective that a member starts in a group meets the n-th of every other member; it has to
// be the same (kind, type, sizes, layouts). Sends from a rank to another meet its receives from that rank
// in order, apart from the rest. Waits may come in any order. Groups know nothing of each other: whoever
// waits in one before starting in another must do so in an order that all members agree on.
// Starting never blocks, so a collective in flight blocks nobody until it is waited for.
//
// Progress: a member's wait may be what moves the bytes. Which member (or helper thread) moves which bytes is
// the implementation's affair and has no effect on numbers: values are always combined in rank order,
// so that every member gets the same bits in every run.

// What a device did in its waits since it began. Nanoseconds.
struct WaitTimes {
  int64_t moving = 0;   // moved bytes, or waited while others did
  int64_t waiting = 0;  // for members that had not started yet
};

// What a set of devices talk through. Makes the groups' communicators, and ends every wait when a device
// fails. All methods are callable from any thread.
class Transport {
 public:
  virtual ~Transport() = default;
  virtual int device_count() const = 0;

  // The place of `device` in the group of `devices` (its rank is its position there). Every member calls it
  // with the same list and the same `channel`; two channels of one list are two groups.
  virtual std::unique_ptr<Communicator> join(const std::vector<int>& devices, int device,
                                             int channel = 0) = 0;

  virtual WaitTimes wait_times(int device) const = 0;

  // From here to `reset` every start, and every wait for what is not complete, throws Cancelled, naming the
  // device; kNoDevice: cancelled by whoever is in control. The first caller's reason is the one told.
  // Returns when no thread touches a buffer any more.
  virtual void fail(int device, const std::string& why) = 0;
  // Forgets the failure, and what was started and not finished. Only while no thread is in a start or wait
  // and no Work is left.
  virtual void reset() = 0;
};
constexpr int kNoDevice = -1;

}  // namespace moai::runtime
