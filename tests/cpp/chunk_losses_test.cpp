#include "compile/chunk/chunk_losses.h"

#include <string>
#include <vector>

#include "catch.h"
#include "compile/chunk/slice_hidden.h"
#include "compile/program.h"
#include "ir/error.h"
#include "ir/passes.h"

namespace moai::compile {
namespace {

// A head of 64 words over 48 tokens, its mean loss and their gradients. `factor`: of the loss's own gradient.
std::string step(const std::string& factor, const std::string& outputs) {
  return R"(graph(%0: f32[48,8], %1: f32[64,8], %2: i64[48], %3: f32[]) {
    %4: f32[8,64]{1,8} = view(%1, offset=0)
    %5: f32[48,64] = aten.mm(%0, %4)
    %6: f32[48,64] = aten._log_softmax(%5, 1, false)
    %7: f32[], %8: f32[] = aten.nll_loss_forward(%6, %2, none, 1, -100)
    %9: f32[] = aten.mul.Tensor()" +
         factor + R"()
    %10: f32[48,64] = !bw aten.nll_loss_backward(%9, %6, %2, none, 1, -100, %8)
    %11: f32[48,64] = !bw aten._log_softmax_backward_data(%10, %6, 1, 6)
    %12: f32[48,8] = !bw aten.mm(%11, %1)
    %13: f32[64,48]{1,64} = !bw view(%11, offset=0)
    %14: f32[64,8] = !bw aten.mm(%13, %0)
    return %7, %12, %14)" +
         outputs + "\n}\n";
}

constexpr int64_t kWide = 48 * 64 * 4;

size_t count(const ir::Graph& graph, const std::string& op) {
  size_t found = 0;
  for (const ir::Node& node : graph.nodes()) found += node.op.str() == op;
  return found;
}

ir::Graph chunked_by(const ir::Graph& graph, int64_t most_bytes) {
  ChunkReport report;
  return chunk_losses(graph, most_bytes, &report);
}

int64_t arena_bytes(const ir::Graph& graph) {
  Program program = lower(graph, {});
  plan_memory(program);
  verify(program);
  return program.arena_bytes;
}

TEST_CASE("a_loss_goes_over_its_tokens_in_chunks") {
  const ir::Graph graph = ir::parse(step("%3, %3", ""));
  for (const int64_t rows : {48, 47, 24, 10, 7, 1}) {
    ChunkReport report;
    const ir::Graph chunked = chunk_losses(graph, rows * 64 * 4 + 3, &report);
    INFO(rows << "\n" << ir::print(chunked));
    ir::verify(chunked);
    CHECK(report.losses.size() == (rows < 48 ? 1 : 0));
    CHECK(count(chunked, "aten._log_softmax") == static_cast<size_t>((48 + rows - 1) / rows));
    CHECK(chunked.outputs().size() == graph.outputs().size());
    for (const ir::Node& node : chunked.nodes()) {
      if (node.op.str() == "aten._log_softmax") CHECK(chunked.type(node.results[0]).sizes[0] <= rows);
    }
  }
  CHECK(arena_bytes(graph) >= 2 * kWide);
  // Log-probabilities of a chunk and its gradient or two, and a chunk of the hidden states' gradient.
  CHECK(arena_bytes(chunked_by(graph, kWide / 8)) <= kWide / 2);
}

TEST_CASE("a_loss_that_nobody_reads_still_looks_at_its_targets") {
  std::string text = step("%3, %3", "");
  text.replace(text.find("return %7, "), 11, "return ");
  CHECK(count(chunked_by(ir::parse(text), kWide / 4), "aten.nll_loss_forward") == 4);
}

TEST_CASE("a_gradient_that_needs_the_loss_keeps_it_in_one_piece") {
  const ir::Graph graph = ir::parse(step("%7, %3", ""));
  ChunkReport report;
  CHECK(ir::hash(chunk_losses(graph, kWide / 4, &report)) == ir::hash(graph));
  CHECK(report.losses.empty());
  REQUIRE(report.why_not.size() == 1);
  CHECK(report.why_not[0] == "its backward needs what is made of its forward by other ops");
}

TEST_CASE("logits_that_are_an_output_are_put_together") {
  const ir::Graph chunked = chunked_by(ir::parse(step("%3, %3", ", %5")), kWide / 4);
  ir::verify(chunked);
  CHECK(count(chunked, "aten._log_softmax") == 4);
  CHECK(chunked.type(chunked.outputs().back()) == ir::Type::contiguous(ir::DType::kF32, {48, 64}));
  CHECK(arena_bytes(chunked) <= kWide);
}

TEST_CASE("devices_do_the_same_or_nothing") {
  const auto whole = std::make_shared<const ir::Graph>(ir::parse(step("%3, %3", "")));
  std::string smaller = step("%3, %3", "");
  for (size_t at = 0; (at = smaller.find("48", at)) != std::string::npos; ++at) smaller.replace(at, 2, "24");
  const auto half = std::make_shared<const ir::Graph>(ir::parse(smaller));
  for (const bool alike : {true, false}) {
    const DeviceGraphs graphs{whole, alike ? whole : half};
    ChunkReport report;
    const DeviceGraphs chunked = chunk_losses(graphs, {2}, 1, kWide / 2, &report);
    CHECK(report.why_not.empty() == alike);
    CHECK(report.losses.empty() != alike);
    CHECK((chunked[0] == whole) != alike);
    CHECK((chunked[0] == chunked[1]) == alike);
  }
}

// The size that GPUs are for: 16,384 tokens, 131,072 words.
std::string large(std::string text) {
  const std::pair<const char*, const char*> sizes[] = {
      {"{1,8}", "{1,4096}"},         {"{1,64}", "{1,131072}"},    {"[48,8]", "[16384,4096]"},
      {"[64,8]", "[131072,4096]"},   {"[8,64]", "[4096,131072]"}, {"[48,64]", "[16384,131072]"},
      {"[64,48]", "[131072,16384]"}, {"[48]", "[16384]"},
  };
  for (const auto& [from, to] : sizes) {
    const std::string size = from;
    for (size_t at = 0; (at = text.find(size, at)) != std::string::npos;) text.replace(at, size.size(), to);
  }
  return text;
}

constexpr int64_t kGiB = int64_t{1} << 30;

TEST_CASE("chunks_of_the_default_size_take_less_than_a_gibibyte") {
  const ir::Graph graph = ir::parse(large(step("%3, %3", "")));
  CHECK(arena_bytes(graph) >= 16 * kGiB);
  CHECK(arena_bytes(chunked_by(graph, kGiB / 4)) <= kGiB);
}

// As autocast has it: products in bf16, the loss and the weight's gradient in f32.
std::string autocast_step(const std::string& outputs) {
  return R"(graph(%0: bf16[48,8], %1: bf16[64,8], %2: i64[48], %3: f32[]) {
    %4: bf16[8,64]{1,8} = view(%1, offset=0)
    %5: bf16[48,64] = aten.mm(%0, %4)
    %6: f32[48,64] = aten._to_copy(%5, 6, none, none, none, false, none)
    %7: f32[48,64] = aten._log_softmax(%6, 1, false)
    %8: f32[], %9: f32[] = aten.nll_loss_forward(%7, %2, none, 1, -100)
    %10: f32[48,64] = !bw aten.nll_loss_backward(%3, %7, %2, none, 1, -100, %9)
    %11: f32[48,64] = !bw aten._log_softmax_backward_data(%10, %7, 1, 6)
    %12: bf16[48,64] = !bw aten._to_copy(%11, 15, none, none, none, false, none)
    %13: bf16[48,8] = !bw aten.mm(%12, %1)
    %14: bf16[64,48]{1,64} = !bw view(%12, offset=0)
    %15: bf16[64,8] = !bw aten.mm(%14, %0)
    %16: f32[64,8] = !bw aten._to_copy(%15, 6, none, none, none, false, none)
    return %8, %13, )" +
         outputs + "\n}\n";
}

TEST_CASE("a_sum_of_products_in_bf16_is_in_f32") {
  for (const std::string outputs : {"%16", "%15", "%15, %16"}) {
    const ir::Graph graph = ir::parse(large(autocast_step(outputs)));
    const ir::Graph chunked = chunked_by(graph, kGiB / 4);
    ir::verify(chunked);
    const std::vector<ir::ValueId>& made = chunked.outputs();
    for (size_t o = 0; o < made.size(); ++o) CHECK(chunked.type(made[o]) == graph.type(graph.outputs()[o]));
    // Its own memory where it is no output of the step: 2 GiB.
    CHECK(arena_bytes(chunked) <= (outputs == "%15" ? 3 : 1) * kGiB);
  }
}

// Logits of six of seven tokens of each sequence, where the labels are shifted.
constexpr const char* kShifted = R"(graph(%0: f32[28,8], %1: f32[64,8], %2: i64[24], %3: f32[]) numbers(i) {
  %4: f32[8,64]{1,8} = view(%1, offset=0)
  %5: f32[28,64] = aten.mm(%0, %4)
  %6: f32[4,6,64]{448,64,1} = view(%5, offset=n0)
  %7: f32[4,6,64] = aten.clone(%6, 0)
  %8: f32[24,64] = view(%7, offset=0)
  %9: f32[24,64] = aten._log_softmax(%8, 1, false)
  %10: f32[], %11: f32[] = aten.nll_loss_forward(%9, %2, none, 1, -100)
  %12: f32[24,64] = !bw aten.nll_loss_backward(%3, %9, %2, none, 1, -100, %11)
  %13: f32[24,64] = !bw aten._log_softmax_backward_data(%12, %9, 1, 6)
  %14: f32[4,6,64] = !bw view(%13, offset=0)
  %15: f32[4,7,64] = !bw aten.slice_backward(%14, [4,7,64], 1, 0, -1, 1)
  %16: f32[64,28]{1,64} = !bw view(%15, offset=0)
  %17: f32[64,8] = !bw aten.mm(%16, %0)
  %18: f32[28,64] = !bw view(%15, offset=0)
  %19: f32[28,8] = !bw aten.mm(%18, %1)
  return %10, %17, %19
})";

TEST_CASE("tokens_without_a_label_have_no_logits") {
  const ir::Graph graph = ir::parse(kShifted);
  for (const int64_t offset : {0, 64, 65}) {
    std::vector<std::pair<int32_t, int64_t>> offsets;
    const ir::Graph sliced = slice_hidden(graph, 1024, {offset}, {}, &offsets);
    INFO(ir::print(sliced));
    ir::verify(sliced);
    // Rows that begin within a row are none.
    const bool is_of_rows = offset % 64 == 0;
    CHECK(offsets.size() == (is_of_rows ? 1 : 0));
    const ir::Graph chunked = chunked_by(sliced, 1024);
    ir::verify(chunked);
    CHECK((arena_bytes(chunked) < 24 * 64 * 4) == is_of_rows);
  }
  std::vector<std::pair<int32_t, int64_t>> offsets;
  slice_hidden(graph, 1024, {0}, {true}, &offsets);
  CHECK(offsets.empty());
}

}  // namespace
}  // namespace moai::compile
