#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/trace.h"
#include "ir/graph.h"
#include "record/layout.h"
#include "record/op_schema.h"
#include "record/storage.h"

namespace moai::record {

// How an op reads (or writes) one tensor: which value, and which view of it.
struct TensorUse {
  ValueRef ref = kUndefined;
  const Layout* storage = nullptr;  // of the storage whose value `ref` is
  const Layout* view = nullptr;
  int32_t offset_number = 0;  // position of the view's offset among the step's numbers
  bool defined = true;        // false: an absent optional tensor
  bool written = false;
  const Layout* resized = nullptr;  // an `out=` of the wrong size becomes this, storage and all
};

// What a call returns, for building it again without running anything.
struct ReturnSpec {
  enum class Kind : uint8_t { kFresh, kArgument, kUndefined, kList };
  Kind kind = Kind::kFresh;
  const Layout* layout = nullptr;  // kFresh
  int argument = -1;               // kArgument
  std::vector<ReturnSpec> list;    // kList
};

// One recorded op, and the ways in which traces went on from there: traces form a trie, and
// following one costs a comparison of `key` for each op.
//
// `key` is the call in words: for each argument which value of this trace it is, its view and the
// static arguments. Numbers are not in it. Everything else is what a match lets us re-use.
struct TraceNode {
  TraceNode();
  ~TraceNode();  // takes a long chain apart without recursion
  const OpSchema* op = nullptr;
  std::vector<int64_t> key;
  std::vector<ir::Arg> args;
  std::vector<TensorUse> uses;
  struct Write {
    int32_t use;       // which of `uses`
    int16_t argument;  // where the call finds the tensor
    int16_t element;   // within a list, or -1
  };
  std::vector<Write> writes;  // in the order of their values
  std::vector<ReturnSpec> returns;
  std::vector<ir::NumberKind> number_kinds;  // of the numbers that this op adds
  int32_t first_value = 0;                   // what it writes comes first, then what it makes
  int32_t value_count = 0;
  int32_t first_number = 0;
  int32_t depth = 0;  // ops before this one, itself included
  ir::Section section = ir::Section::kForward;
  std::string where;  // the user's line, "file:line", where Python was running

  bool cut_after = false;  // a repeating stream was cut here: see record/repeat.h
  uint64_t last_used = 0;  // of a first op: the segment that went through it last

  TraceNode* parent = nullptr;
  std::vector<std::unique_ptr<TraceNode>> next;  // the one taken last comes first
  std::unique_ptr<struct TraceEnd> end;          // set once a segment has ended here
};

// What the engine runs when a segment ends at a node.
struct TraceEnd {
  std::shared_ptr<engine::Trace> trace;
  std::vector<ir::ValueId> values;  // by ValueRef: the graph's value
};

// Builds the graph of the ops from the root to `last`, as recorded: nothing removed, strided reads
// as views, writes through views as updates.
//
// * `inputs`, `donated`, `hints`: of the segment's outside values, by first use.
std::unique_ptr<TraceEnd> make_trace(const TraceNode& last, const std::vector<const Layout*>& inputs,
                                     const std::vector<bool>& donated,
                                     const std::vector<std::pair<int32_t, const Hint*>>& hints);

// Where every trace begins. Under the recorder's lock.
TraceNode& trace_root();

}  // namespace moai::record
