#include "ops/rule_builder.h"

namespace moai::ops {

namespace {

constexpr const char* kByData = "the data say where in it to look";
constexpr const char* kCounts = "its counts are over all rows";

// A table split by rows answers for the indices in its range, the others giving zeros.
void embedding(RuleBuilder& b) {
  b.line("v d, t* -> t* d", {0, 1});
  b.positional("v", Position::kLookup, b.operand(1), 0);
  b.linear({0});
  b.flops(0);
}

void embedding_backward(RuleBuilder& b) {
  b.line("t* d, t* -> v d", {0, 1});
  b.positional("v", Position::kScatter, b.operand(1), 3);
  b.size_argument(2, {"v"});
  if (b.flag(4)) {  // by how often each row of the table is looked up, which no part of the indices knows
    b.whole("v", kCounts);
    b.whole("t", kCounts);
  }
  b.linear({0});
}

// self, dim, index (1-d, or a number)[, source]
void index_select(RuleBuilder& b) {
  const size_t rank = b.sizes(0).size();
  const int64_t dim = b.wrap(b.integer(1), rank);
  const char* index = b.sizes(b.operand(2)).empty() ? "" : "i";
  b.line(dims_but(rank, dim, "v") + ", " + index + " -> " + dims_but(rank, dim, "i"), {0, 2});
  b.positional("v", Position::kLookup, b.operand(2), static_cast<int32_t>(dim));
  b.linear({0});
}

// Each part adds what it has of these names to zeros, and one of them to what was there.
void adds_up(RuleBuilder& b, const std::vector<std::string>& names) {
  b.additive(0);
  if (b.dtype(0) != ir::DType::kBool) return;
  for (const auto& name : names) b.whole(name, "of bools a sum says no more than that one is true");
}

void index_add(RuleBuilder& b) {
  const size_t rank = b.sizes(0).size();
  const int64_t dim = b.wrap(b.integer(1), rank);
  const char* index = b.sizes(b.operand(2)).empty() ? "" : "i";
  // What it is added to is often zeros that other sums begin with, over other dims of this size.
  b.line(dims_but(rank, dim) + ", " + index + ", " + dims_but(rank, dim, "i") + " -> " + dims_but(rank, dim),
         {0, 2, 3});
  b.why_whole(kByData);
  adds_up(b, {"i"});
}

// self, dim, index[, src]: dims that are as long in all tensors go together; the others lie whole.
void gather_or_scatter(RuleBuilder& b) {
  b.why_whole(kByData);
  const size_t rank = b.sizes(0).size();
  const auto operands = static_cast<int32_t>(b.node().operands.size());
  for (int32_t o = 1; o < operands; ++o) {
    if (b.sizes(o).size() != rank) return;  // an empty index, or numbers
  }
  const int64_t dim = b.wrap(b.integer(1), rank);
  std::string same;
  for (size_t d = 0; d < rank; ++d) {
    bool equal = static_cast<int64_t>(d) != dim;
    for (int32_t o = 1; o < operands; ++o) equal = equal && b.sizes(o)[d] == b.sizes(0)[d];
    same += equal ? "d" + std::to_string(d) + " " : ". ";
  }
  if (rank == 0) same = "1*";
  std::string line = same;
  for (int32_t o = 1; o < operands; ++o) line += ", " + same;
  b.line(line + "-> " + same);
}

bool is_mask(ir::DType dtype) { return dtype == ir::DType::kBool || dtype == ir::DType::kU8; }

// self, [index per dim, or none]: leading tensors index; what follows them passes through. Indices broadcast.
void index(RuleBuilder& b, bool writes) {
  const auto list = b.operand_list(1);
  if (list.size() > b.sizes(0).size()) b.contradiction("it has more indices than dims");
  size_t first = 0;
  while (first < list.size() && list[first] == ir::kNone) ++first;
  size_t last = list.size();
  bool plain = first < list.size();
  size_t width = 0;
  for (size_t i = first; i < last; ++i) {
    // Tensors apart: their dims move to the front. A mask: as many indices as it has dims, data say how long.
    if (list[i] == ir::kNone || is_mask(b.dtype(list[i]))) {
      plain = false;
      break;
    }
    width = std::max(width, b.sizes(list[i]).size());
  }
  b.why_whole(kByData);
  if (!plain) return;
  std::string before, indexed, after, into;
  for (size_t d = 0; d < first; ++d) before += "a" + std::to_string(d) + " ";
  const bool one = last - first == 1;  // one index tensor: a lookup in a table
  for (size_t d = first; d < last; ++d) indexed += one && !writes ? "v " : ". ";
  for (size_t d = last; d < b.sizes(0).size(); ++d) after += "c" + std::to_string(d) + " ";
  for (size_t d = 0; d < width; ++d) into += "i" + std::to_string(d) + " ";
  std::string line = before + indexed + after;
  for (size_t i = first; i < last; ++i) {
    const size_t rank = b.sizes(list[i]).size();
    std::string term;
    for (size_t d = width - rank; d < width; ++d) term += "i" + std::to_string(d) + " ";
    line += ", " + (rank == 0 ? std::string("1*") : term);
  }
  const std::string picked = before + into + after;
  if (!writes) {
    b.line(line + "-> " + (picked.empty() ? "1*" : picked));
    b.positional("v", Position::kWrappedLookup, list[first], static_cast<int32_t>(first));
    b.linear({0});
    return;
  }
  // Values broadcast to what is picked; which elements of the result they reach, the data say.
  const auto values = b.operand(2);
  const size_t rank = values == ir::kNone ? 0 : b.sizes(values).size();
  const size_t full = first + width + (b.sizes(0).size() - last);
  std::string term;
  for (size_t d = full - std::min(full, rank); d < full; ++d) {
    if (d < first) term += "a" + std::to_string(d) + " ";
    else if (d < first + width) term += "i" + std::to_string(d - first) + " ";
    else term += "c" + std::to_string(last + d - first - width) + " ";
  }
  b.line(line + ", " + (term.empty() ? "1*" : term) + " -> " + before + indexed + after);
  const bool adds = b.flag(3) && values != ir::kNone;
  std::vector<std::string> names;
  for (size_t d = 0; d < width; ++d) names.push_back("i" + std::to_string(d));
  if (adds) return adds_up(b, names);
  for (const auto& name : names) b.whole(name, kByData);
}

// Counts between ends that the call says add up; others are the data's.
void histc(RuleBuilder& b) {
  b.why_whole(kByData);
  const auto low = b.number(2), high = b.number(3);
  if (!low || !high || *low == *high) return;
  b.count("i", b.sizes(0).size());
  b.line("i* -> .");
}

}  // namespace

void add_indexing(RuleTable& table) {
  table["embedding"] = embedding;
  table["embedding_dense_backward"] = embedding_backward;
  table["index_select"] = index_select;
  table["index_add"] = index_add;
  table["gather"] = gather_or_scatter;
  table["scatter.src"] = table["scatter.value"] = table["scatter_add"] = gather_or_scatter;
  table["index.Tensor"] = table["_unsafe_index.Tensor"] = [](RuleBuilder& b) { index(b, false); };
  table["index_put"] = table["_unsafe_index_put"] =
      table["_index_put_impl"] = [](RuleBuilder& b) { index(b, true); };
  table["histc"] = histc;
  table["bincount"] = [](RuleBuilder& b) { b.why_whole(kByData); };
}

}  // namespace moai::ops
