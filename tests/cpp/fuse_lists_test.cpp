#include <random>
#include <string>
#include <vector>

#include "catch.h"
#include "compile/fuse/lists.h"
#include "compile/fuse/regroup.h"
#include "compile/fuse/settle_lists.h"
#include "compile/program.h"
#include "plan/split_lists.h"

namespace moai::compile {
namespace {

size_t fused_count(const ir::Graph& graph) {
  size_t count = 0;
  for (const ir::Node& node : graph.nodes()) count += is_fused_lists(node);
  return count;
}

// The graph with the ops that each fused node stands for in its place, a tensor at a time.
ir::Graph taken_apart(const ir::Graph& graph) {
  NodeGroups groups{std::vector<int32_t>(graph.nodes().size(), ir::kNone), {}};
  for (size_t n = 0; n < graph.nodes().size(); ++n) {
    if (!is_fused_lists(graph.nodes()[n])) continue;
    groups.of[n] = static_cast<int32_t>(groups.members.size());
    groups.members.push_back({static_cast<ir::NodeId>(n)});
  }
  return regroup(graph, groups, [&](int32_t group, ir::Graph* out, std::vector<ir::ValueId>* renamed) {
    const ir::Node& node = graph.node(groups.members[group].front());
    const FusedLists lists = fused_lists(node);
    const auto of = [](const std::vector<int32_t>& list, size_t i) { return list[list.size() == 1 ? 0 : i]; };
    for (size_t i = 0; i < lists.tensors; ++i) {
      std::vector<ir::ValueId> values(lists.graph.values().size());
      for (size_t input = 0; input < lists.inputs.size(); ++input)
        values[lists.graph.inputs()[input]] = (*renamed)[node.operands[of(lists.inputs[input], i)]];
      const ir::Type& like = graph.type(node.operands[of(lists.inputs[0], i)]);
      for (ir::Node one : lists.graph.nodes()) {
        std::vector<ir::Type> types;
        for (const ir::ValueId result : one.results)
          types.push_back({lists.graph.type(result).dtype, like.sizes, like.strides});
        const auto results = std::move(one.results);
        one.results.clear();
        for (ir::ValueId& operand : one.operands) operand = values[operand];
        for (ir::Arg& arg : one.args) {
          if (auto* number = std::get_if<ir::NumberRef>(&arg))
            number->index = of(lists.numbers[number->index], i);
          if (auto* numbers = std::get_if<ir::NumberListRef>(&arg))
            numbers->indices = {of(lists.numbers[numbers->indices[0]], i)};
        }
        const ir::NodeId id = out->add_node(std::move(one), std::move(types));
        for (size_t r = 0; r < results.size(); ++r) values[results[r]] = out->node(id).results[r];
      }
      for (size_t o = 0; o < lists.tied.size(); ++o)
        (*renamed)[node.results[o * lists.tensors + i]] = values[lists.graph.outputs()[o]];
    }
  });
}

// Three lists of two tensors, ops on them (in place too, and on lists in another order), and ops in between
// that see a single tensor.
std::string random_graph(uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::vector<std::string>> lists;
  std::string text = "graph(";
  for (int l = 0; l < 3; ++l) {
    const std::string a = "%a" + std::to_string(l), b = "%b" + std::to_string(l);
    text += (l == 0 ? "" : ", ") + a + ": f32[4], " + b + ": f32[3,2]";
    lists.push_back({a, b});
  }
  text += ", %s: f32[]) numbers(f, f, f) {\n";
  const size_t nodes = 2 + random() % 12;
  std::string outputs;
  for (size_t n = 0; n < nodes; ++n) {
    const size_t from = random() % lists.size();
    auto& self = lists[from];
    const auto& other = lists[random() % lists.size()];
    const auto list = [](const std::vector<std::string>& of) { return "[" + of[0] + ", " + of[1] + "]"; };
    const std::string first = "%x" + std::to_string(n), second = "%y" + std::to_string(n);
    const auto call = [&](const std::string& op, const std::string& more, bool in_place) {
      text += "  " + first + (in_place ? "@0" : "") + ": f32[4], " + second + (in_place ? "@1" : "") +
              ": f32[3,2] = aten._foreach_" + op + "(" + list(self) + more + ")\n";
      if (in_place) self = {first, second};
      if (!in_place) lists.push_back({first, second});
    };
    switch (random() % 8) {
      case 0: call("mul_.Scalar", ", n0", true); break;
      case 1: call("sqrt", "", false); break;
      case 2: call("addcmul.Scalar", ", " + list(other) + ", " + list(other) + ", n1", false); break;
      case 3: call("mul_.Tensor", ", %s", true); break;
      case 4: call("add.ScalarList", ", [n0, n2]", false); break;
      case 5:
        if (&other != &self) call("lerp_.Scalar", ", " + list(other) + ", n2", true);
        break;
      case 6:
        call("norm.Scalar", ", 2.0", false);
        lists.pop_back();
        break;  // no op of the kernels'
      default:
        text += "  " + first + ": f32[4] = aten.exp(" + self[0] + ")\n";
        lists.push_back({first, self[1]});
    }
    if (random() % 3 == 0) outputs += ", " + lists.back()[0];
  }
  return text + "  return " + lists[0][1] + outputs + "\n}\n";
}

TEST_CASE("fused_lists_are_the_ops_on_lists_in_fewer_nodes") {
  size_t fused = 0;
  for (uint32_t seed = 0; seed < 400; ++seed) {
    const ir::Graph graph = settle_lists(ir::parse(random_graph(seed)));
    INFO("seed " << seed << "\n" << ir::print(graph));
    const ir::Graph with_lists = fuse_lists(graph);
    INFO(ir::print(with_lists));
    ir::verify(with_lists);
    fused += fused_count(with_lists);
    for (const ir::Node& node : with_lists.nodes()) {
      if (!is_fused_lists(node)) continue;
      const FusedLists lists = fused_lists(node);
      REQUIRE(lists.graph.nodes().size() > 1);
      REQUIRE(build_list_kernel(lists.graph));
    }
    REQUIRE(ir::hash(plan::split_lists(taken_apart(with_lists))) == ir::hash(plan::split_lists(graph)));
    Program program = lower(with_lists, {});
    plan_memory(program);
    verify(program);
  }
  CHECK(fused > 250);
}

// What is left of a step, as names of ops.
std::vector<std::string> ops_of(const ir::Graph& graph) {
  std::vector<std::string> ops;
  for (const ir::Node& node : graph.nodes()) {
    if (node.kind == ir::NodeKind::kOp) ops.push_back(node.op.str());
  }
  return ops;
}

// A gradient that is clipped, seen in the dims of its parameter, and AdamW.
constexpr const char* kClipAndAdamW =
    R"(graph(%0: f32[8,4], %1: f32[3], %2: f32[8,4], %3: f32[3], %4: f32[8,4],
      %5: f32[3], %6: f32[], %7: f32[], %8: f32[8,4], %9: f32[1,3], %10: f32[]) numbers(f, f, f, f, f) {
  %11: f32[8,4] = aten.exp(%8)
  %12: f32[1,3] = aten.exp(%9)
  %13: f32[3] = view(%12, offset=0)
  %14@0: f32[8,4], %15@1: f32[3] = aten._foreach_mul_.Tensor([%11, %13], %10)
  %16: f32[1,3] = update(%12, %15, [3]{1}, offset=0)
  %17: f32[3] = view(%16, offset=0)
  %18@0: f32[8,4], %19@1: f32[3], %20@2: f32[8,4], %21@3: f32[3], %22@4: f32[8,4], %23@5: f32[3], %24@6: f32[8,4], %25@7: f32[3] = aten._fused_adamw_([%0, %1], [%14, %17], [%2, %3], [%4, %5], tensor[], [%6, %7], n0, n1, n2, n3, n4, false, false, none, none)
  %26: f32[1,3] = update(%16, %21, [3]{1}, offset=0)
  return %18, %19, %22, %23, %24, %25KEPT
})";

ir::Graph clip_and_adamw(const std::string& kept) {
  std::string text = kClipAndAdamW;
  return ir::parse(text.replace(text.find("KEPT"), 4, kept));
}

TEST_CASE("clipping_and_adamw_are_one_kernel_whether_or_not_gradients_are_kept") {
  const std::vector<std::string> want{"aten.exp", "aten.exp", "moai.fused_lists"};
  const ir::Graph dead = fuse_lists(clip_and_adamw(""));
  CHECK(ops_of(dead) == want);
  CHECK(fused_lists(dead.nodes().back()).graph.outputs().size() == 3);  // no gradient is written
  const ir::Graph kept = fuse_lists(clip_and_adamw(", %20, %26"));
  CHECK(ops_of(kept) == want);
  CHECK(fused_lists(kept.nodes()[kept.nodes().size() - 2]).graph.outputs().size() == 4);
  // They are written where they were: the second in its own dims.
  LowerOptions options;
  options.donated.assign(11, true);
  CHECK(lower(kept, options).instructions.size() == 3);
}

TEST_CASE("gradients_that_an_optimizer_says_to_write_stay_where_they_are") {
  const ir::Graph graph = settle_lists(ir::parse(R"(graph(%0: f32[3], %1: f32[3], %2: f32[3], %3: f32[],
      %4: f32[1,3]) numbers(f, f, f, f, f) {
  %5: f32[1,3] = aten.exp(%4)
  %6: f32[3] = view(%5, offset=0)
  %7@0: f32[3], %8@1: f32[3], %9@2: f32[3], %10@3: f32[3] = aten._fused_adamw_([%0], [%6], [%1], [%2], tensor[], [%3], n0, n1, n2, n3, n4, false, false, none, none)
  %11: f32[1,3] = update(%5, %8, [3]{1}, offset=0)
  return %7, %9, %10, %11
})"));
  CHECK(ops_of(graph) == std::vector<std::string>{"aten.exp", "aten._fused_adamw_"});
  CHECK(graph.nodes().size() == 3);
  CHECK(graph.outputs()[3] == graph.node(0).results[0]);
  LowerOptions options;
  options.donated.assign(5, true);
  CHECK(lower(graph, options).instructions.size() == 2);
}

// Two parameter groups, clipped together.
TEST_CASE("parameter_groups_are_one_kernel") {
  const ir::Graph graph = ir::parse(R"(graph(%0: f32[8], %1: f32[5], %2: f32[8], %3: f32[5], %4: f32[8],
      %5: f32[5], %6: f32[8], %7: f32[5], %8: f32[]) numbers(f, f, f, f) {
  %9: f32[8], %10: f32[5], %11: f32[8], %12: f32[5] = aten._foreach_mul.Tensor([%0, %1, %2, %3], %8)
  %13@0: f32[8], %14@1: f32[8] = aten._foreach_add_.List([%4, %6], [%9, %11], n0)
  %15@0: f32[5] = aten._foreach_add_.List([%5], [%10], n1)
  %16@0: f32[5] = aten._foreach_add_.List([%7], [%12], n2)
  return %13, %14, %15, %16
})");
  const ir::Graph fused = fuse_lists(graph);
  INFO(ir::print(fused));
  REQUIRE(fused.nodes().size() == 1);
  const FusedLists lists = fused_lists(fused.node(0));
  CHECK(lists.tensors == 4);
  CHECK(lists.numbers == std::vector<std::vector<int32_t>>{{0, 0, 1, 2}});
  const auto operand = [&](int32_t o) { return fused.node(0).operands[o]; };
  for (size_t i = 0; i < 4; ++i) {
    // A tensor's gradient, the tensor that it goes to, and the factor of all.
    const std::vector<ir::ValueId> wants[] = {{0, 8, 4}, {2, 8, 6}, {1, 8, 5}, {3, 8, 7}};
    CHECK(std::vector<ir::ValueId>{operand(lists.inputs[0][i]), operand(lists.inputs[1][i]),
                                   operand(lists.inputs[2][i])} == wants[i]);
    CHECK(lists.tied[0][i] == lists.inputs[2][i]);
  }
}

TEST_CASE("chains_that_need_each_other_stay_apart") {
  const ir::Graph graph = ir::parse(R"(graph(%0: f32[8], %1: f32[8]) numbers(f) {
  %2: f32[8], %3: f32[8] = aten._foreach_mul.Scalar([%0, %1], n0)
  %4: f32[8], %5: f32[8] = aten._foreach_sqrt([%2, %3])
  %6: f32[8] = aten.cumsum(%4, 0, none)
  %7: f32[8], %8: f32[8] = aten._foreach_mul.Scalar([%6, %5], n0)
  %9: f32[8], %10: f32[8] = aten._foreach_sqrt([%7, %8])
  return %9, %10
})");
  CHECK(fused_count(fuse_lists(graph)) == 2);
}

TEST_CASE("adamw_op_by_op_is_one_kernel") {
  const ir::Graph graph = ir::parse(R"(graph(%0: f32[8], %1: f32[5], %2: f32[8], %3: f32[5], %4: f32[8],
      %5: f32[5], %6: f32[8], %7: f32[5]) numbers(f, f, f, f, f, f, f, f, f) {
  %8@0: f32[8], %9@1: f32[5] = aten._foreach_mul_.Scalar([%0, %1], n0)
  %10@0: f32[8], %11@1: f32[5] = aten._foreach_lerp_.Scalar([%2, %3], [%6, %7], n1)
  %12@0: f32[8], %13@1: f32[5] = aten._foreach_mul_.Scalar([%4, %5], n2)
  %14@0: f32[8], %15@1: f32[5] = aten._foreach_addcmul_.Scalar([%12, %13], [%6, %7], [%6, %7], n3)
  %16: f32[8], %17: f32[5] = aten._foreach_sqrt([%14, %15])
  %18@0: f32[8], %19@1: f32[5] = aten._foreach_div_.ScalarList([%16, %17], [n4, n5])
  %20@0: f32[8], %21@1: f32[5] = aten._foreach_add_.Scalar([%18, %19], n6)
  %22@0: f32[8], %23@1: f32[5] = aten._foreach_addcdiv_.ScalarList([%8, %9], [%10, %11], [%20, %21], [n7, n8])
  return %10, %11, %14, %15, %22, %23
})");
  const ir::Graph fused = fuse_lists(graph);
  REQUIRE(fused.nodes().size() == 1);
  const FusedLists lists = fused_lists(fused.node(0));
  CHECK(lists.graph.inputs().size() == 4);
  CHECK(lists.graph.outputs().size() == 3);
  for (const auto& tied : lists.tied) CHECK(tied != std::vector<int32_t>{ir::kNone, ir::kNone});
  // Everything is written where it was: no memory but the state's.
  LowerOptions options;
  options.donated.assign(8, true);
  Program program = lower(fused, options);
  plan_memory(program);
  CHECK(program.arena_bytes == 0);
  CHECK(program.instructions.size() == 1);
}

TEST_CASE("lists_in_another_order_or_of_other_sizes_are_no_chain") {
  const auto count = [](const std::string& second) {
    return fused_count(
        fuse_lists(ir::parse(R"(graph(%0: f32[8], %1: f32[8], %2: f32[5], %3: f64[8]) numbers(f, i) {
      %4: f32[8], %5: f32[8] = aten._foreach_sqrt([%0, %1])
      )" + second + "\n return %4, %5, %6, %7 }")));
  };
  CHECK(count("%6: f32[8], %7: f32[8] = aten._foreach_neg([%4, %5])") == 1);
  CHECK(count("%6: f32[8], %7: f32[8] = aten._foreach_neg([%0, %1])") == 1);
  CHECK(count("%6: f32[8], %7: f32[8] = aten._foreach_neg([%5, %4])") == 0);
  CHECK(count("%6: f32[8], %7: f32[5] = aten._foreach_neg([%4, %2])") == 0);
  CHECK(count("%6: f32[8], %7: f64[8] = aten._foreach_neg([%4, %3])") == 0);
  // Nor are numbers of two kinds, which the table does not tell.
  CHECK(count("%6: f32[8], %7: f32[8] = aten._foreach_mul.ScalarList([%4, %5], [n0, n0])") == 1);
  CHECK(count("%6: f32[8], %7: f32[8] = aten._foreach_mul.ScalarList([%4, %5], [n0, n1])") == 0);
}

// Packs are moved by whole tensors: one that begins elsewhere than at 16 bytes is gone through one by one.
TEST_CASE("a_tables_rows_say_how_each_tensor_is_gone_through") {
  const auto kernel = build_list_kernel(ir::parse(R"(graph(%0: f32[2], %1: bf16[2], %2: f32[]) numbers(f) {
    %3: f32[2] = aten._foreach_mul.Tensor([%0], %2)
    %4@0: bf16[2] = aten._foreach_copy_([%1], [%3], false)
    return %4
  })"));
  REQUIRE(kernel);
  const auto row = [](int64_t a, int64_t b, int64_t c, int64_t elements) {
    return ListRow{{a, b, c, b}, {7}, elements};
  };
  const Launch launch = launch_of_lists(
      *kernel, {row(0, 16, 4, kChunkElements + 1), row(8, 0, 4, 5), row(0, 8, 4, 0), row(64, 32, 4, 8)});
  CHECK(launch.blocks == 4);
  CHECK(launch.words[1] == 4);
  const std::vector<std::vector<int64_t>> want{{0, 16, 4, 16, 7, kChunkElements + 1, 1, 2},
                                               {8, 0, 4, 0, 7, 5, 0, 3},
                                               {0, 8, 4, 8, 7, 0, 0, 3},
                                               {64, 32, 4, 32, 7, 8, 1, 4}};
  std::vector<int64_t> table;
  for (const auto& words : want) table.insert(table.end(), words.begin(), words.end());
  CHECK(launch.table == table);
}

}  // namespace
}  // namespace moai::compile
