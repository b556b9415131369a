#include "record/recorder.h"

#include <c10/core/GradMode.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <pthread.h>

#include <algorithm>
#include <chrono>

#include "engine/engine.h"
#include "engine/log.h"
#include "engine/stats.h"
#include "ir/error.h"
#include "record/encode.h"
#include "record/flight.h"
#include "record/generator.h"
#include "record/hint.h"
#include "record/infer.h"
#include "record/new_node.h"
#include "record/source_line.h"
#include "record/stand_ins.h"
#include "runtime/profiler.h"

namespace moai::record {

namespace {

using runtime::Cell;
using runtime::CellPtr;
using torch::jit::Stack;

// Longer segments are cut, whatever they do.
constexpr int32_t kMostOps = 200'000;
// A stream that repeats itself is cut when it is this long. With gradients on, a deep model may
// look like that in the middle of a step.
constexpr int32_t kShortestRepeat = 256;
constexpr int32_t kShortestRepeatWithGradients = 16'384;
// Ops that the trie remembers; beyond, the branches that were used longest ago are forgotten.
constexpr int64_t kMostNodes = 400'000;

int64_t node_count = 0;  // under the lock

int64_t count_nodes(const TraceNode& branch) {
  int64_t count = 0;
  std::vector<const TraceNode*> open{&branch};
  while (!open.empty()) {
    const TraceNode* node = open.back();
    open.pop_back();
    ++count;
    for (const auto& next : node->next) open.push_back(next.get());
  }
  return count;
}

uint64_t next_segment_id() {
  static uint64_t last = 0;  // under the lock
  return ++last;
}

// Every recorder, since a storage says only in which segment its value is.
std::vector<std::shared_ptr<Recorder>>& recorders() {
  static auto* all = new std::vector<std::shared_ptr<Recorder>>;
  return *all;
}

Recorder* recorder_with(uint64_t segment) {
  for (const auto& r : recorders()) {
    if (r->segment.id == segment) return r.get();
  }
  return nullptr;
}

struct RecorderInfo : c10::DebugInfoBase {
  explicit RecorderInfo(std::shared_ptr<Recorder> r) : recorder(std::move(r)) {}
  std::shared_ptr<Recorder> recorder;
};

// One of the two kinds that torch leaves to others; autograd carries it into its own threads.
constexpr auto kInfoKind = c10::DebugInfoKind::TEST_INFO_2;

thread_local std::shared_ptr<RecorderInfo> of_this_thread;

at::Tensor tensor_at(at::ArrayRef<at::IValue> args, int argument, int element) {
  return element < 0 ? args[argument].toTensor() : args[argument].toListRef()[element].toTensor();
}

}  // namespace

std::mutex& lock() {
  static auto* one = [] {
    // A child that is forked while another thread records must find it free.
    pthread_atfork([] { lock().lock(); }, [] { lock().unlock(); }, [] { lock().unlock(); });
    return new std::mutex;
  }();
  return *one;
}

TraceNode& trace_root() {
  static auto* root = new TraceNode;
  return *root;
}

const char* cut_reason_name(CutReason reason) {
  switch (reason) {
    case CutReason::kHostRead: return "host read";
    case CutReason::kOptimizerStep: return "optimizer step";
    case CutReason::kSync: return "sync";
    case CutReason::kAtOnce: return "op at once";
    case CutReason::kRepeat: return "repeat";
    case CutReason::kOtherThread: return "other thread";
    case CutReason::kLimit: return "limit";
    case CutReason::kExit: return "exit";
  }
  return "?";
}

Recorder& Recorder::current() {
  if (auto* info = static_cast<RecorderInfo*>(c10::ThreadLocalDebugInfo::get(kInfoKind)))
    return *info->recorder;
  if (of_this_thread == nullptr) {
    const Guard guard(lock());
    auto recorder = std::make_shared<Recorder>();
    recorder->segment.id = next_segment_id();
    auto& all = recorders();
    // Recorders of threads that ended, with nothing left to launch.
    all.erase(std::remove_if(all.begin(), all.end(),
                             [](const auto& r) { return r.use_count() == 1 && r->segment.empty(); }),
              all.end());
    all.push_back(recorder);
    of_this_thread = std::make_shared<RecorderInfo>(std::move(recorder));
  }
  c10::ThreadLocalDebugInfo::_push(kInfoKind, of_this_thread);
  return *of_this_thread->recorder;
}

runtime::Number detail::read_host_scalar(const at::Tensor& tensor) {
  runtime::Number number;
  const at::Scalar value = tensor.item();
  if (value.isFloatingPoint()) {
    number.f = value.toDouble();
  } else {
    number.i = value.isBoolean() ? value.toBool() : value.toLong();
  }
  return number;
}

void leave_other_segments(Segment& segment, Storage& storage) {
  if (storage.segment != 0 && storage.segment != segment.id) {
    if (Recorder* other = recorder_with(storage.segment)) other->cut(CutReason::kOtherThread, "");
    storage.segment = 0;
  }
  Cell* cell = storage.cell.get();
  if (cell != nullptr && cell->reader != 0 && cell->reader != segment.id) {
    if (Recorder* other = recorder_with(cell->reader)) other->cut(CutReason::kOtherThread, "");
    cell->reader = 0;
  }
}

ValueRef ref_of(Segment& segment, Storage& storage) {
  if (storage.segment == segment.id) return storage.ref;
  leave_other_segments(segment, storage);
  if (storage.cell == nullptr) return kUndefined;
  storage.cell->reader = segment.id;
  storage.segment = segment.id;
  storage.ref = input_ref(segment.inputs.size());
  segment.inputs.push_back(storage.cell);
  segment.input_layouts.push_back(storage.layout);
  segment.donated.push_back(false);
  if (const Hint* hint = hint_of(storage)) segment.hints.emplace_back(input_of(storage.ref), hint);
  segment.captured.push_back(&storage);
  return storage.ref;
}

// Takes back what encoding an op has added to the segment, unless the op was recorded: left behind,
// its numbers would shift those of the next ops in a trace that later steps follow, and an input that
// it was the first to use would enter the trace with no word of its layout. Also where the encoding
// throws. Lives within one hold of the lock.
class Attempt {
 public:
  explicit Attempt(Segment& segment) : segment_(segment), first_number_(segment.numbers.size()) {
    segment.op_first_input = segment.inputs.size();
    segment.captured.clear();
  }
  Attempt(const Attempt&) = delete;
  Attempt& operator=(const Attempt&) = delete;
  ~Attempt() {
    if (open_) take_back();
  }

  size_t first_number() const { return first_number_; }
  void drop_numbers() { segment_.numbers.resize(first_number_); }
  void keep() { open_ = false; }
  void take_back() {
    open_ = false;
    for (Storage* storage : segment_.captured) {
      storage->segment = 0;
      storage->ref = kUndefined;
    }
    segment_.captured.clear();
    segment_.inputs.resize(segment_.op_first_input);
    segment_.input_layouts.resize(segment_.op_first_input);
    segment_.donated.resize(segment_.op_first_input);
    while (!segment_.hints.empty() &&
           static_cast<size_t>(segment_.hints.back().first) >= segment_.op_first_input)
      segment_.hints.pop_back();
    drop_numbers();
  }

 private:
  Segment& segment_;
  size_t first_number_;
  bool open_ = true;
};

void set_value(Storage& storage, const Layout* layout, CellPtr cell) {
  if (storage.segment != 0) {
    // Another thread's segment may have it on its list of written storages: it finds out there.
    storage.segment = 0;
  }
  storage.ref = kUndefined;
  storage.layout = layout;
  storage.cell = std::move(cell);
}

CellPtr settle(Storage& storage, CutReason reason, const std::string& detail) {
  if (storage.segment != 0) {
    Recorder* recorder = recorder_with(storage.segment);
    // As an input it is what the cell says already.
    if (recorder != nullptr && storage.ref >= 0) recorder->cut(reason, detail);
  }
  return storage.cell;
}

// --- One op -------------------------------------------------------------------------------------

void Recorder::call(const OpSchema& op, Stack& stack) {
  rethrow_failure();
  const runtime::Span span(runtime::Profiler::Lane::kHost, op.name.str().c_str());
  refuse_overlap(op, torch::jit::last(stack, op.args.size()));
  switch (op.handling) {
    case Handling::kRecord:
      if (!engine::stats().time_calls.load(std::memory_order_relaxed)) return record(op, stack);
      {
        const auto start = std::chrono::steady_clock::now();
        record(op, stack);
        engine::stats().call_ns.fetch_add(engine::ns_since(start), std::memory_order_relaxed);
      }
      break;
    case Handling::kAtOnce: run_at_once(op, stack, op.why); break;
    case Handling::kRefuse: TORCH_CHECK_NOT_IMPLEMENTED(false, op.name.str(), " ", op.why);
    case Handling::kDecompose: TORCH_INTERNAL_ASSERT(false, op.name.str(), " was not to be registered");
  }
}

void Recorder::record(const OpSchema& op, Stack& stack) {
  const size_t n = op.args.size();
  Inferred inferred;
  bool have_inferred = false;
  std::string where;
  Stack returns;
  for (;;) {
    Guard guard(lock());
    const auto args = torch::jit::last(stack, n);
    if (segment.at == nullptr) segment.at = &trace_root();
    Attempt attempt(segment);
    TraceNode& at = *segment.at;
    TraceNode* found = nullptr;
    Encoded encoded = Encoded::kDiffers;
    if (!at.next.empty() && at.next.front()->op == &op) {
      KeyMatcher matcher(at.next.front()->key);
      encoded = encode(segment, op, args, matcher);
      if (encoded == Encoded::kSame && matcher.complete()) found = at.next.front().get();
      if (found == nullptr) attempt.drop_numbers();
    }
    KeyWriter writer;
    if (found == nullptr && encoded != Encoded::kForeign) {
      encoded = encode(segment, op, args, writer);
      if (encoded == Encoded::kSame) {
        for (auto& candidate : at.next) {
          if (candidate->op != &op || candidate->key != writer.key) continue;
          std::swap(candidate, at.next.front());
          found = at.next.front().get();
          break;
        }
      }
    }
    if (encoded == Encoded::kForeign) {
      attempt.take_back();
      guard.unlock();
      record_foreign(op, stack);
      return;
    }
    if (found == nullptr) {
      if (!have_inferred) {
        attempt.take_back();
        guard.unlock();
        if (const char* why = not_recordable(op, torch::jit::last(stack, n)))
          return run_at_once(op, stack, why);
        const auto start = std::chrono::steady_clock::now();
        inferred = infer(op, torch::jit::last(stack, n));
        if (inferred.at_once) return run_at_once(op, stack, inferred.why);
        where = source_line();
        have_inferred = true;
        engine::stats().record_ns.fetch_add(engine::ns_since(start), std::memory_order_relaxed);
        continue;  // the segment may have been cut meanwhile
      }
      auto node = new_node(op, args, segment, std::move(writer.key), std::move(inferred),
                           static_cast<int32_t>(attempt.first_number()));
      node->section = in_backward() ? ir::Section::kBackward : ir::Section::kForward;
      node->where = std::move(where);
      found = node.get();
      if (segment.diverged.empty() && !at.next.empty() && engine::logs(engine::Topic::kCompile)) {
        segment.diverged = describe_difference(*at.next.front(), *node);
      }
      at.next.insert(at.next.begin(), std::move(node));
      ++node_count;
      const bool backward = found->section == ir::Section::kBackward;
      const bool repeated = repeats.repeats(
          *found, c10::GradMode::is_enabled() || backward ? kShortestRepeatWithGradients : kShortestRepeat);
      // No loop repeats within one backward: it is a deep model's layers that do.
      found->cut_after = found->depth >= kMostOps || (repeated && !backward);
    } else {
      engine::stats().ops_followed.fetch_add(1, std::memory_order_relaxed);
    }
    if (op.random) draw(op, args, segment.numbers);
    attempt.keep();
    returns.reserve(found->returns.size());
    follow(*found, args, returns);
    if (found->cut_after) cut(found->depth >= kMostOps ? CutReason::kLimit : CutReason::kRepeat, "");
    break;
  }
  engine::stats().ops.fetch_add(1, std::memory_order_relaxed);
  // Outside the lock: dropping the arguments may free tensors, and with them Python objects.
  torch::jit::drop(stack, n);
  for (auto& value : returns) stack.push_back(std::move(value));
}

namespace {

// Builds what the call returns, giving each fresh tensor the next value.
at::IValue make_return(Segment& segment, const ReturnSpec& spec, at::ArrayRef<at::IValue> args,
                       int32_t* value) {
  switch (spec.kind) {
    case ReturnSpec::Kind::kArgument: return args[spec.argument];
    case ReturnSpec::Kind::kUndefined: return at::Tensor();
    case ReturnSpec::Kind::kList: {
      c10::List<at::Tensor> list;
      list.reserve(spec.list.size());
      for (const auto& one : spec.list) list.push_back(make_return(segment, one, args, value).toTensor());
      return list;
    }
    case ReturnSpec::Kind::kFresh: break;
  }
  at::Tensor tensor = new_tensor(spec.layout);
  Storage& storage = storage_of(tensor);
  storage.segment = segment.id;
  storage.ref = (*value)++;
  segment.written.emplace_back(tensor.storage().getWeakStorageImpl());
  return tensor;
}

void resize(const at::Tensor& tensor, Storage& storage, const Layout* layout) {
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(layout->type.sizes, layout->type.strides);
  if (layout->bytes > static_cast<int64_t>(storage.nbytes()))
    storage.set_nbytes(static_cast<size_t>(layout->bytes));
  storage.layout = layout;
}

}  // namespace

void Recorder::follow(TraceNode& node, at::ArrayRef<at::IValue> args, Stack& returns) {
  int32_t value = node.first_value;
  for (const auto& write : node.writes) {
    const at::Tensor tensor = tensor_at(args, write.argument, write.element);
    Storage& storage = storage_of(tensor);
    const bool listed = storage.segment == segment.id && storage.ref >= 0;
    if (storage.segment == segment.id && is_input(storage.ref)) segment.donated[input_of(storage.ref)] = true;
    if (const Layout* layout = node.uses[write.use].resized) resize(tensor, storage, layout);
    storage.segment = segment.id;
    storage.ref = value++;
    if (node.op->bumps_versions && !tensor.is_inference()) tensor.unsafeGetTensorImpl()->bump_version();
    if (!listed) segment.written.emplace_back(tensor.storage().getWeakStorageImpl());
  }
  for (const auto& spec : node.returns) returns.push_back(make_return(segment, spec, args, &value));
  segment.at = &node;
  segment.next_value = value;
}

namespace {

// Keeps the trie within its bound: drops whole branches at the root, oldest first. A branch in
// which somebody records now stays.
void forget_old_traces() {
  if (node_count <= kMostNodes) return;
  auto& branches = trace_root().next;
  std::sort(branches.begin(), branches.end(),
            [](const auto& a, const auto& b) { return a->last_used > b->last_used; });
  const auto in_use = [](const TraceNode* branch) {
    for (const auto& recorder : recorders()) {
      const TraceNode* at = recorder->segment.at;
      while (at != nullptr && at->depth > 1) at = at->parent;
      if (at == branch) return true;
    }
    return false;
  };
  int64_t kept = 0;
  std::vector<std::unique_ptr<TraceNode>> keep;
  for (auto& branch : branches) {
    const int64_t size = count_nodes(*branch);
    if (!keep.empty() && kept + size > kMostNodes / 2 && !in_use(branch.get())) continue;
    kept += size;
    keep.push_back(std::move(branch));
  }
  branches = std::move(keep);
  node_count = kept;
}

}  // namespace

// --- The end of a segment -----------------------------------------------------------------------

void Recorder::cut(CutReason reason, const std::string& detail) {
  if (segment.at == nullptr || segment.at == &trace_root()) {
    // Nothing was recorded; what was captured by an op that then failed is let go.
    segment = Segment();
    segment.id = next_segment_id();
    return;
  }
  const runtime::Span span(runtime::Profiler::Lane::kHost, cut_reason_name(reason));
  TraceNode& last = *segment.at;
  std::vector<int32_t> refs;
  std::vector<engine::Held> held;
  std::vector<Restore> restores;
  for (const auto& weak : segment.written) {
    auto strong = weak.lock();
    if (!strong) continue;
    auto& storage = static_cast<Storage&>(*strong);
    if (storage.segment != segment.id || storage.ref < 0) continue;
    auto cell = std::make_shared<Cell>(storage.layout->bytes);
    refs.push_back(storage.ref);
    held.push_back({ir::kNone, cell});
    restores.push_back({weak, std::move(storage.cell), cell});
    storage.cell = std::move(cell);
    storage.segment = 0;
  }
  const bool known = last.end != nullptr;
  if (!segment.diverged.empty()) engine::log(engine::Topic::kCompile, "a new trace: " + segment.diverged);
  if (!known) last.end = make_trace(last, segment.input_layouts, segment.donated, segment.hints);
  for (size_t i = 0; i < held.size(); ++i) held[i].value = last.end->values[refs[i]];
  engine::stats().count_cut(cut_reason_name(reason));
  (known ? engine::stats().hits : engine::stats().traces).fetch_add(1, std::memory_order_relaxed);
  if (engine::logs(engine::Topic::kCut)) {
    engine::log(engine::Topic::kCut,
                concat(cut_reason_name(reason), detail.empty() ? "" : " (" + detail + ")", " after ",
                       last.depth, " ops", last.where.empty() ? "" : " at " + last.where,
                       known ? ", known trace" : ", new trace"));
  }
  launch(last.end->trace, std::move(segment.inputs), std::move(segment.numbers), std::move(held),
         std::move(restores));
  TraceNode* first = &last;
  while (first->depth > 1) first = first->parent;
  first->last_used = segment.id;
  segment = Segment();
  segment.id = next_segment_id();
  repeats.clear();
  forget_old_traces();
}

void cut_all(CutReason reason) {
  for (const auto& recorder : recorders()) recorder->cut(reason, "");
}

void abandon_all() {
  for (const auto& recorder : recorders()) {
    Segment& segment = recorder->segment;
    for (const auto& weak : segment.written) {
      if (auto strong = weak.lock()) {
        auto& storage = static_cast<Storage&>(*strong);
        if (storage.segment == segment.id) storage.segment = 0;  // `cell` is what it was before
      }
    }
    segment = Segment();
    segment.id = next_segment_id();
  }
}

}  // namespace moai::record
