#include "runtime/contiguous_calls.h"

#include <cstring>
#include <deque>
#include <map>
#include <numeric>
#include <random>
#include <stdexcept>
#include <utility>
#include <vector>

#include "catch.h"
#include "plain_collectives.h"
#include "random_collective.h"
#include "runtime/reduce.h"

namespace moai::runtime {
namespace {

using ir::DType;
using CallKind = ContiguousCall::Kind;

// An engine of contiguous calls, by plain code: runs what every member of a group does, on their buffers.
class PlainEngine {
 public:
  PlainEngine(const Collective& what, std::vector<Bytes> in, std::vector<Bytes> out)
      : what_(what), in_(std::move(in)), out_(std::move(out)), members_(static_cast<int>(in_.size())) {
    for (int r = 0; r < members_; ++r) {
      plans_.push_back(contiguous_calls(what, r, members_));
      staging_.emplace_back(plans_[r].staging_elements * width_, uint8_t{0xaa});
    }
  }

  std::vector<Bytes> run() {
    for (int r = 0; r < members_; ++r) copy(r, plans_[r].before);
    messages();
    const auto is_message = [](const ContiguousCall& call) {
      return call.kind == CallKind::kSend || call.kind == CallKind::kReceive;
    };
    // What all members call together is the same, in the same order.
    std::vector<std::vector<ContiguousCall>> together(members_);
    for (int r = 0; r < members_; ++r) {
      for (const auto& call : plans_[r].calls) {
        if (!is_message(call)) together[r].push_back(call);
      }
      REQUIRE(together[r].size() == together[0].size());
    }
    for (size_t c = 0; c < together[0].size(); ++c) {
      std::vector<ContiguousCall> calls;
      for (int r = 0; r < members_; ++r) {
        calls.push_back(together[r][c]);
        REQUIRE(calls[r].kind == calls[0].kind);
        REQUIRE(calls[r].count == calls[0].count);
        REQUIRE(calls[r].peer == calls[0].peer);
      }
      run(calls);
    }
    for (int r = 0; r < members_; ++r) copy(r, plans_[r].after);
    return out_;
  }

 private:
  uint8_t* at(int rank, const Place& place, int64_t more = 0) {
    Bytes& bytes = place.of == Place::Of::kIn    ? in_[rank]
                   : place.of == Place::Of::kOut ? out_[rank]
                                                 : staging_[rank];
    if ((place.offset + more) * width_ > static_cast<int64_t>(bytes.size()))
      throw std::out_of_range("beyond a buffer");
    return bytes.data() + (place.offset + more) * width_;
  }

  void copy(int rank, const std::vector<LocalCopy>& copies) {
    for (const LocalCopy& one : copies) {
      for_runs(one.box, 0, one.box.elements(), [&](int64_t source, int64_t target, int64_t count) {
        at(rank, one.to, target + count);  // it is there
        std::memcpy(at(rank, one.to, target), at(rank, one.from, source), count * width_);
      });
    }
  }

  void messages() {
    std::map<std::pair<int, int>, std::deque<Bytes>> sent;
    for (int r = 0; r < members_; ++r) {
      for (const auto& call : plans_[r].calls) {
        if (call.kind != CallKind::kSend) continue;
        const uint8_t* from = at(r, call.from);
        sent[{r, call.peer}].emplace_back(from, from + call.count * width_);
      }
    }
    for (int r = 0; r < members_; ++r) {
      for (const auto& call : plans_[r].calls) {
        if (call.kind != CallKind::kReceive) continue;
        auto& queue = sent[{call.peer, r}];
        REQUIRE(!queue.empty());
        REQUIRE(static_cast<int64_t>(queue.front().size()) == call.count * width_);
        std::memcpy(at(r, call.to), queue.front().data(), queue.front().size());
        queue.pop_front();
      }
    }
    for (const auto& [ends, queue] : sent) REQUIRE(queue.empty());
  }

  // The members' `count` elements, `skip` on, as one.
  Bytes reduced(const std::vector<ContiguousCall>& calls, int64_t skip, int64_t count) {
    std::vector<const void*> sources;
    for (int r = 0; r < members_; ++r) sources.push_back(at(r, calls[r].from, skip));
    Bytes result(count * width_);
    void* target = result.data();
    reduce(what_.dtype, what_.reduce, sources.data(), members_, &target, 1, count);
    return result;
  }

  void run(const std::vector<ContiguousCall>& calls) {
    const int64_t count = calls[0].count;
    const auto put_at = [&](int rank, int64_t skip, const Bytes& bytes) {
      std::memcpy(at(rank, calls[rank].to, skip), bytes.data(), bytes.size());
    };
    const auto of = [&](int rank) {
      const uint8_t* from = at(rank, calls[rank].from);
      return Bytes(from, from + count * width_);
    };
    switch (calls[0].kind) {
      case CallKind::kAllReduce: {
        const Bytes result = reduced(calls, 0, count);
        for (int r = 0; r < members_; ++r) put_at(r, 0, result);
        break;
      }
      case CallKind::kAllGather:
        for (int s = 0; s < members_; ++s) {
          for (int r = 0; r < members_; ++r) put_at(r, s * count, of(s));
        }
        break;
      case CallKind::kReduceScatter:
        for (int r = 0; r < members_; ++r) put_at(r, 0, reduced(calls, r * count, count));
        break;
      case CallKind::kBroadcast:
        for (int r = 0; r < members_; ++r) put_at(r, 0, of(calls[0].peer));
        break;
      case CallKind::kReduce: put_at(calls[0].peer, 0, reduced(calls, 0, count)); break;
      default: FAIL("a message is no call of all");
    }
  }

  const Collective& what_;
  const int64_t width_ = ir::element_bytes(what_.dtype);
  std::vector<Bytes> in_;
  std::vector<Bytes> out_;
  std::vector<Bytes> staging_;
  const int members_;
  std::vector<ContiguousCalls> plans_;
};

TEST_CASE("contiguous_calls_are_the_collective") {
  std::mt19937 random(3);
  for (int members = 1; members <= 5; ++members) {
    for (const auto kind :
         {Collective::Kind::kAllReduce, Collective::Kind::kAllGather, Collective::Kind::kReduceScatter,
          Collective::Kind::kAllToAll, Collective::Kind::kBroadcast}) {
      for (int times = 0; times < 60; ++times) {
        Collective what = random_collective(kind, DType::kF32, members, random);
        if (times % 2 == 0) {  // even parts, which random ones rarely are
          for (Layout* layout : {&what.from, &what.to}) {
            if (!layout->is_cut()) continue;
            what.sizes[layout->dim] = 2 * members;
            layout->parts.assign(members, 2);
          }
          for (Layout* layout : {&what.from, &what.to}) {
            if (layout->is_cut()) layout->parts.assign(members, what.sizes[layout->dim] / members);
          }
        }
        INFO(what.str() << " of " << members);
        verify(what, members);
        std::vector<Bytes> in, out;
        for (int r = 0; r < members; ++r) {
          in.push_back(random_elements(what.dtype, what.in_elements(r), random()));
          out.emplace_back(what.out_elements(r) * 4, uint8_t{0xee});
        }
        REQUIRE(PlainEngine(what, in, out).run() == plain_collective(what, in));
      }
    }
  }
}

std::vector<CallKind> kinds_of(const ContiguousCalls& calls) {
  std::vector<CallKind> kinds;
  for (const auto& call : calls.calls) kinds.push_back(call.kind);
  return kinds;
}

TEST_CASE("even_parts_of_the_outermost_dim_are_one_call_on_the_buffers_themselves") {
  const auto check = [](const Collective& what, CallKind kind) {
    const auto calls = contiguous_calls(what, 1, 4);
    CHECK(kinds_of(calls) == std::vector<CallKind>{kind});
    CHECK(calls.staging_elements == 0);
    CHECK((calls.before.empty() && calls.after.empty()));
    CHECK(calls.calls[0].count == 6);
  };
  check(Collective::all_gather(DType::kF32, {8, 3}, 0, {2, 2, 2, 2}), CallKind::kAllGather);
  check(Collective::reduce_scatter(DType::kF32, {8, 3}, 0, {2, 2, 2, 2}, Reduce::kSum),
        CallKind::kReduceScatter);
  check(Collective::all_reduce(DType::kF32, {2, 3}, Reduce::kSum), CallKind::kAllReduce);
}

TEST_CASE("an_inner_dim_goes_by_way_of_staging_and_uneven_parts_by_messages_to_their_places") {
  const auto inner = contiguous_calls(Collective::all_gather(DType::kF32, {3, 8}, 1, {4, 4}), 0, 2);
  CHECK(kinds_of(inner) == std::vector<CallKind>{CallKind::kAllGather});
  CHECK(inner.staging_elements == 24);
  CHECK(inner.after.size() == 2);
  const auto uneven = contiguous_calls(Collective::all_gather(DType::kF32, {5, 2}, 0, {3, 0, 2}), 0, 3);
  CHECK(kinds_of(uneven) == std::vector<CallKind>{CallKind::kSend, CallKind::kSend, CallKind::kReceive});
  CHECK(uneven.staging_elements == 0);
  CHECK(uneven.calls[2].to.offset == 6);
}

TEST_CASE("a_barrier_exchanges_something") {
  const auto barrier = contiguous_calls(Collective::barrier(), 0, 3);
  CHECK(kinds_of(barrier) == std::vector<CallKind>{CallKind::kAllReduce});
  CHECK(barrier.calls[0].count == 1);
  CHECK(barrier.staging_elements == 1);
}

TEST_CASE("a_message_is_one_call_at_each_end") {
  const auto send = contiguous_calls(Collective::send(DType::kF32, {2, 3}, 1), 0, 2);
  const auto receive = contiguous_calls(Collective::receive(DType::kF32, {2, 3}, 0), 1, 2);
  CHECK(kinds_of(send) == std::vector<CallKind>{CallKind::kSend});
  CHECK(kinds_of(receive) == std::vector<CallKind>{CallKind::kReceive});
  CHECK((send.calls[0].peer == 1 && receive.calls[0].peer == 0 && receive.calls[0].count == 6));
}

}  // namespace
}  // namespace moai::runtime
