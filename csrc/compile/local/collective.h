#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ir/graph.h"

namespace moai::compile {

// Note [Collectives in a graph]
// A local graph speaks with the other devices by nodes of one operand and one result, or by buckets of them:
//
//   moai.all_reduce(x, [axes], "sum")                      sum, product, max (or any), min (or all)
//   moai.all_gather(x, [axes], dim, [sizes])               parts of these sizes, side by side along dim
//   moai.reduce_scatter(x, [axes], dim, [sizes], "sum")    each keeps its part of the sum
//   moai.all_to_all(x, [axes], dim, [sizes], to, [sizes])  cut along dim; what arrives is joined along `to`
//
//   moai.barrier()                                         of all devices: behind it nothing of the step can
//   raise
//
//   moai.bucket("moai.all_reduce", x, [axes], "sum", "moai.all_gather", y, [axes], ...)
//                                          several of one group as one: a result for each operand, see
//                                          buckets.h
//
// A group is the devices that differ in `axes` (of the mesh, ascending) alone, in row-major order of their
// coordinates there: `sizes` and the order of parts are by that position. Sizes may differ: parts are uneven.
// Devices are numbered in row-major order of their coordinates.
struct Collective {
  enum class Kind : uint8_t { kAllReduce, kAllGather, kReduceScatter, kAllToAll };
  Kind kind = Kind::kAllReduce;
  std::vector<int64_t> axes;
  std::string reduction = "sum";  // of all-reduce and reduce-scatter
  int64_t dim = 0;
  std::vector<int64_t> sizes;  // by member, along dim
  int64_t joined_dim = 0;      // of all-to-all
  std::vector<int64_t> joined_sizes;
};

const char* collective_name(Collective::Kind kind);  // "moai.all_reduce"

// The node's arguments, its operand being the first.
std::vector<ir::Arg> args_of(const Collective& collective);

// By operand what becomes of it; nothing of a node that is no collective. Those of a bucket are of one group.
// Throws Error(Phase::kCompile) where its arguments are malformed.
std::vector<Collective> read_collectives(const ir::Graph& graph, ir::NodeId node);

// One node that does what these do, none of which is a bucket; its operands and results are theirs, in order.
ir::Node bucket_of(const ir::Graph& graph, const std::vector<ir::NodeId>& collectives);

// By operand of a bucket, whether its memory may be its result's; nothing of other nodes.
std::vector<bool> in_place_of_bucket(const ir::Graph& graph, ir::NodeId node);

// A device's coordinates on a mesh of these sizes.
std::vector<int32_t> coordinates_of(const std::vector<int32_t>& mesh, int32_t device);

// The devices of the group of `device`, in order.
std::vector<int32_t> group_of(const std::vector<int32_t>& mesh, int32_t device,
                              const std::vector<int64_t>& axes);

}  // namespace moai::compile
