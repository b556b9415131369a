#include <functional>
#include <numeric>

#include "ops/rule_builder.h"

namespace moai::ops {

namespace {

constexpr const char* kNoBoundary = "the slice ends inside a factor";

// Matches the sizes from the left, joining dims until the products agree: each joined run is a list of
// factors that both sides share; where sizes do not divide each other the run lies whole.
void match(RuleBuilder& b, int32_t operand) {
  const auto& in = b.sizes(operand);
  const auto& out = b.result_sizes(0);
  TensorFactors from(in.size()), to(out.size());
  const auto has_zero = [](const ir::Dims& sizes) {
    for (const auto size : sizes) {
      if (size == 0) return true;
    }
    return false;
  };
  const auto elements = [](const ir::Dims& sizes) {
    return std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>());
  };
  if (elements(in) != elements(out)) b.contradiction("it changes how many elements there are");
  if (has_zero(in)) return;
  size_t i = 0, o = 0;
  int64_t left_in = 1, left_out = 1;  // what of the dim at hand has no factor yet
  int n = 0;
  for (;;) {
    while (left_in == 1 && i < in.size()) left_in = in[i++];
    while (left_out == 1 && o < out.size()) left_out = out[o++];
    if (left_in == 1 || left_out == 1) break;
    const int64_t small = std::min(left_in, left_out), large = std::max(left_in, left_out);
    int64_t size = small;
    bool is_whole = false;
    if (large % small != 0) {
      // Outermost first: the runs can only be told apart again where the products agree.
      is_whole = true;
    }
    if (!is_whole) {
      const auto f = b.add_factor("f" + std::to_string(n++), size);
      from[i - 1].push_back(f);
      to[o - 1].push_back(f);
      left_in /= size;
      left_out /= size;
      continue;
    }
    // Each dim of the run keeps what is left of it as a whole factor of its own.
    int64_t product_in = left_in, product_out = left_out;
    if (left_in != 1) from[i - 1].push_back(b.add_factor(".", left_in, true));
    if (left_out != 1) to[o - 1].push_back(b.add_factor(".", left_out, true));
    while (product_in != product_out) {
      if (product_in < product_out) {
        product_in *= in[i++];
        if (in[i - 1] != 1) from[i - 1].push_back(b.add_factor(".", in[i - 1], true));
      } else {
        product_out *= out[o++];
        if (out[o - 1] != 1) to[o - 1].push_back(b.add_factor(".", out[o - 1], true));
      }
    }
    b.why_whole("sizes do not divide each other");
    left_in = left_out = 1;
  }
  b.say_operand(operand, std::move(from));
  b.say_result(0, std::move(to));
}

void reshape(RuleBuilder& b) {
  match(b, 0);
  b.free();
  b.linear({0});
  b.result_sizes_argument(1);
}

void permute(RuleBuilder& b) {
  const auto order = b.integers(1);
  std::string in, out;
  for (size_t d = 0; d < order.size(); ++d) {
    in += "d" + std::to_string(d) + " ";
    out += "d" + std::to_string(order[d]) + " ";
  }
  b.line(order.empty() ? "1* -> 1*" : in + "-> " + out);
  b.free();
  b.linear({0});
}

void expand(RuleBuilder& b) {
  b.broadcast();
  b.result_sizes_argument(1);
  // Parts of a partial sum that are repeated are repeated in the sum.
  b.combine("p", Combine::kSame);
  b.free();
  b.linear({0});
}

// Dims of a tensor one of which is blocks of the other's, of which one is taken (or given, the other way
// round). `start_arg` and `end_arg` are where the op has them; what is in `end_arg` is a length where it
// takes.
void block_of(RuleBuilder& b, bool takes, int64_t dim, int64_t start, int64_t length, int64_t step,
              int32_t start_arg, int32_t end_arg) {
  const auto& big = takes ? b.sizes(0) : b.result_sizes(0);
  TensorFactors whole_dims(big.size()), part_dims(big.size());
  for (size_t d = 0; d < big.size(); ++d) {
    if (big[d] == 1) {
      if (static_cast<int64_t>(d) == dim && length == 0) part_dims[d].push_back(b.add_factor(".", 0, true));
      continue;
    }
    if (static_cast<int64_t>(d) != dim || length == big[d]) {
      const auto f = b.add_factor("d" + std::to_string(d), big[d]);
      whole_dims[d].push_back(f);
      part_dims[d].push_back(f);
      if (static_cast<int64_t>(d) == dim) b.local_argument({end_arg, -1, {f}, 1});
    } else if (step == 1 && length > 0 && big[d] % length == 0 && start % length == 0) {
      // Which block is a choice on the outer factor; the inner one passes.
      whole_dims[d].push_back(b.add_factor("block", big[d] / length, true));
      if (length > 1) {
        const auto f = b.add_factor("d" + std::to_string(d), length);
        whole_dims[d].push_back(f);
        part_dims[d].push_back(f);
        b.local_argument({start_arg, -1, {f}, start / length});
        b.local_argument({end_arg, -1, {f}, takes ? 1 : start / length + 1});
      }
    } else {
      whole_dims[d].push_back(b.add_factor(".", big[d], true));
      if (length != 1) part_dims[d].push_back(b.add_factor(".", length, true));
      b.why_whole(kNoBoundary);
    }
  }
  b.say_operand(0, takes ? std::move(whole_dims) : part_dims);
  b.say_result(0, takes ? std::move(part_dims) : whole_dims);
  b.linear({0});
}

// moai.slice(x, dim, start, length, step)
void slice(RuleBuilder& b) {
  block_of(b, true, b.integer(1), b.integer(2), b.integer(3), b.integer(4, 1), 2, 3);
  b.free();
}

// grad, input sizes, dim, start, end, step: zeros but for the slice.
void slice_backward(RuleBuilder& b) {
  const size_t rank = b.sizes(0).size();
  const int64_t dim = b.wrap(b.integer(2), rank);
  if (b.result_sizes(0).size() != rank) b.contradiction("its dims and its result's are not as many");
  const int64_t size = b.result_sizes(0)[dim];
  int64_t start = b.integer(3);
  if (start < 0) start += size;
  const int64_t length = b.sizes(0)[dim];
  if (length == 1 && size != 1) start = 0;  // any element is a block of its own
  block_of(b, false, dim, std::min(start, size), length, b.integer(5, 1), 3, 4);
  b.result_sizes_argument(1);
}

void select_backward(RuleBuilder& b) {
  const auto& out = b.result_sizes(0);
  const int64_t dim = b.wrap(b.integer(2), out.size());
  b.line(dims_but(out.size(), dim, "") + "-> " + dims_but(out.size(), dim));
  b.result_sizes_argument(1);
  b.linear({0});
}

// Equal pieces side by side: (which piece, within it). Pieces of several sizes lie whole. An empty tensor of
// one dim is passed over, as cat does.
void cat(RuleBuilder& b) {
  const auto& out = b.result_sizes(0);
  const int64_t dim = b.wrap(b.integer(1), out.size());
  const auto is_nothing = [&](size_t o) { return b.sizes(static_cast<int32_t>(o)) == ir::Dims{0}; };
  int64_t pieces = 0, length = -1;
  bool equal = true;
  for (size_t o = 0; o < b.node().operands.size(); ++o) {
    if (is_nothing(o)) continue;
    if (b.sizes(static_cast<int32_t>(o)).size() != out.size() || out.empty())
      b.contradiction("its pieces and its result do not have as many dims");
    const int64_t own = b.sizes(static_cast<int32_t>(o))[dim];
    equal = equal && (length == -1 || own == length);
    length = own;
    ++pieces;
  }
  std::string piece, whole;
  for (size_t d = 0; d < out.size(); ++d) {
    const bool along = static_cast<int64_t>(d) == dim;
    const std::string name = "d" + std::to_string(d);
    piece += (along && !equal ? "." : name) + " ";
    whole += (!along ? name : !equal ? "." : pieces > 1 ? "(piece " + name + ")" : name) + " ";
  }
  std::string line;
  for (size_t o = 0; o < b.node().operands.size(); ++o)
    line += (o > 0 ? ", " : "") + (is_nothing(o) ? std::string(".") : piece);
  b.size("piece", pieces);
  b.line(line + "-> " + whole);
  b.whole("piece");
  if (!equal) b.why_whole("its pieces are of several sizes");
  b.linear_in_all();
}

void stack(RuleBuilder& b) {
  const auto& out = b.result_sizes(0);
  const int64_t dim = b.wrap(b.integer(1), out.size());
  const std::string piece = dims_but(out.size(), dim, "");
  std::string line = piece;
  for (size_t o = 1; o < b.node().operands.size(); ++o) line += ", " + piece;
  b.line(line + "-> " + dims_but(out.size(), dim, "piece"));
  b.whole("piece");
  b.linear_in_all();
}

void pad(RuleBuilder& b) {
  const auto padding = b.integers(1);
  const size_t rank = b.sizes(0).size();
  std::string in;
  for (size_t d = 0; d < rank; ++d) {
    const size_t at = (rank - 1 - d) * 2;
    const bool padded = at + 1 < padding.size() && (padding[at] != 0 || padding[at + 1] != 0);
    in += padded ? ". " : "d" + std::to_string(d) + " ";
  }
  b.line(rank == 0 ? "1* -> 1*" : in + "-> " + in);
  b.why_whole("it is padded");
}

// x, repeats: (how often, x's dim).
void repeat(RuleBuilder& b) {
  const auto& in = b.sizes(0);
  const auto& out = b.result_sizes(0);
  std::string from, to;
  if (out.size() < in.size()) b.contradiction("its result has fewer dims");
  const size_t extra = out.size() - in.size();
  for (size_t d = 0; d < out.size(); ++d) {
    const std::string n = std::to_string(d);
    if (d < extra) {
      to += "times" + n + " ";
      continue;
    }
    from += "d" + n + " ";
    const int64_t size = in[d - extra];
    const bool repeated = out[d] != size;
    if (repeated && size != 1) b.size("d" + n, size);
    to += repeated ? (size == 1 ? "times" + n + " " : "(times" + n + " d" + n + ") ") : "d" + n + " ";
  }
  b.line((from.empty() ? "1* " : from) + "-> " + (to.empty() ? "1*" : to));
  for (size_t d = 0; d < out.size(); ++d) b.whole("times" + std::to_string(d));
  b.linear({0});
}

}  // namespace

// Where the region is all of the value, in its order, the source is the result in other sizes, and nothing of
// the old value is read.
void say_update(RuleBuilder& b, const ir::Type& whole, const ir::Type& region) {
  if (!whole.is_contiguous() || !region.is_contiguous() || whole.sizes != region.sizes) {
    b.why_whole("a region is written");
    return;
  }
  match(b, 1);
  b.say_operand(0, b.result_factors(0));
  b.linear({0, 1});
}

void add_views(RuleTable& table) {
  table["moai.reshape"] = table["view"] = table["_unsafe_view"] = table["reshape"] = reshape;
  table["moai.permute"] = permute;
  table["moai.expand"] = expand;
  table["moai.slice"] = slice;
  table["slice_backward"] = slice_backward;
  table["select_backward"] = select_backward;
  table["cat"] = cat;
  table["stack"] = stack;
  table["constant_pad_nd"] = pad;
  table["repeat"] = repeat;
}

}  // namespace moai::ops
