#include "ir/error.h"
#include "ops/rule_builder.h"

namespace moai::ops {

namespace {

// Says operand and result of a reduction over `dims` (all of them where there are none). Each dim has a
// name, `kept.i` or `gone.i`, and a reduced one that is kept has size 1.
void reduce(RuleBuilder& b, const std::vector<int64_t>& dims, bool keep, Combine how) {
  const size_t rank = b.sizes(0).size();
  std::vector<bool> gone(rank, dims.empty());
  for (const auto d : dims) {
    if (rank > 0) gone[b.wrap(d, rank)] = true;
  }
  std::string in, out;
  for (size_t d = 0; d < rank; ++d) {
    const std::string name = (gone[d] ? "gone" : "kept") + std::to_string(d);
    in += name + " ";
    out += gone[d] ? (keep ? "1 " : "") : name + " ";
  }
  std::string line = in + "-> " + out;
  for (size_t r = 1; r < b.result_count(); ++r) line += ", " + out;
  if (rank == 0) line = "1* -> 1*";
  b.line(line);
  for (size_t d = 0; d < rank; ++d) {
    if (gone[d]) b.combine("gone" + std::to_string(d), how);
  }
}

RuleEntry over_dims(Combine how, bool is_linear) {
  return [how, is_linear](RuleBuilder& b) {
    reduce(b, b.integers(1), b.flag(2), how);
    if (is_linear) b.linear({0});
  };
}

RuleEntry over_all(Combine how, bool is_linear) {
  return [how, is_linear](RuleBuilder& b) {
    reduce(b, {}, false, how);
    if (is_linear) b.linear({0});
  };
}

// The largest and where it is: which part has it is known only together.
void with_indices(RuleBuilder& b) { reduce(b, {b.integer(1)}, b.flag(2), Combine::kUnknown); }

void arg_of(RuleBuilder& b) {
  const bool all = b.integers(1).empty();
  reduce(b, b.integers(1), b.flag(2) && !all, Combine::kUnknown);
}

void vector_norm(RuleBuilder& b) {
  double order = 2;
  if (b.node().args.size() > 1) {
    const auto* real = std::get_if<double>(&b.node().args[1]);
    const auto* integer = std::get_if<int64_t>(&b.node().args[1]);
    const bool is_usual = std::holds_alternative<ir::NoneArg>(b.node().args[1]);
    order = real != nullptr ? *real : integer != nullptr ? static_cast<double>(*integer) : is_usual ? 2 : -1;
  }
  const Combine how = order == 2      ? Combine::kNorm2
                      : order == 1    ? Combine::kSum
                      : order > 1e300 ? Combine::kMax
                                      : Combine::kUnknown;
  const bool foreach = b.node().op.str() == "aten._foreach_norm.Scalar";
  reduce(b, foreach ? std::vector<int64_t>{} : b.integers(2), !foreach && b.flag(3), how);
}

// Every tensor alike, but for one dim that lies whole.
void along(RuleBuilder& b, int64_t dim, int32_t exchanges, Exchange exchange, const char* why) {
  const auto rank = b.sizes(0).size();
  if (rank == 0) return b.broadcast();
  const std::string term = dims_but(rank, b.wrap(dim, rank), "row");
  std::string line = term;
  for (size_t o = 1; o < b.node().operands.size(); ++o) line += ", " + term;
  line += "-> " + term;
  for (size_t r = 1; r < b.result_count(); ++r) line += ", " + term;
  b.line(line);
  if (exchanges > 0) {
    b.exchanges("row", exchanges, exchange, b.wrap(dim, rank));
  } else {
    b.whole("row", why);
  }
}

RuleEntry whole_along(size_t arg, const char* why) {
  return [arg, why](RuleBuilder& b) { along(b, b.integer(arg, -1), 0, Exchange::kNone, why); };
}

// The maximum and the sum of each row go round.
RuleEntry softmax(Exchange exchange) {
  return [exchange](RuleBuilder& b) { along(b, b.integer(1, -1), 2, exchange, ""); };
}

RuleEntry softmax_backward(Exchange exchange) {
  return [exchange](RuleBuilder& b) {
    along(b, b.integer(2, -1), 1, exchange, "");
    b.linear({0});
  };
}

// Every tensor alike, but for the dims that the op names, along which elements move: all of them where it
// names none. x, how far (roll's), dims.
RuleEntry moved_along(size_t arg, const char* why) {
  return [arg, why](RuleBuilder& b) {
    const auto rank = b.sizes(0).size();
    const auto dims = b.integers(arg);
    std::vector<bool> moved(rank, dims.empty());
    for (const auto d : dims) {
      if (rank > 0) moved[b.wrap(d, rank)] = true;
    }
    std::string term;
    for (size_t d = 0; d < rank; ++d) term += concat(moved[d] ? "moved" : "d", d, " ");
    b.line(rank == 0 ? "1* -> 1*" : term + "-> " + term);
    for (size_t d = 0; d < rank; ++d) {
      if (moved[d]) b.whole(concat("moved", d), why);
    }
    b.linear({0});
  };
}

// Only the rows of the two last dims; which side of the diagonal an element is on depends on where it is.
void triangle(RuleBuilder& b) {
  b.line("b* i j -> b* i j");
  b.positional("i", Position::kDiagonal, 1);
  b.positional("j", Position::kDiagonalBack, 1);
  b.linear({0});
}

// Keys and where they stood, beside those that are given and come out.
void scratch_of_sorting(RuleBuilder& b) {
  auto bytes = static_cast<double>(ir::element_bytes(b.dtype(0)) + ir::element_bytes(ir::DType::kI64));
  std::vector<int32_t> factors;
  for (size_t d = 0; d < b.sizes(0).size(); ++d) {
    const auto& of_dim = b.operand_factors(0)[d];
    if (of_dim.empty()) bytes *= static_cast<double>(b.sizes(0)[d]);
    factors.insert(factors.end(), of_dim.begin(), of_dim.end());
  }
  b.scratch(bytes, std::move(factors));
}

RuleEntry sorted_along(size_t arg) {
  return [along = whole_along(arg, "it is sorted along")](RuleBuilder& b) {
    along(b);
    scratch_of_sorting(b);
  };
}

void topk(RuleBuilder& b) {
  const auto rank = b.sizes(0).size();
  const std::string term = dims_but(rank, b.wrap(b.integer(2, -1), rank));
  b.line(term + " -> " + term + ", " + term, {0});
  b.why_whole("it is sorted along");
  scratch_of_sorting(b);
}

}  // namespace

void add_reductions(RuleTable& table) {
  table["sum"] = over_all(Combine::kSum, true);
  table["sum.dim_IntList"] = over_dims(Combine::kSum, true);
  table["mean"] = over_all(Combine::kMean, true);
  table["mean.dim"] = over_dims(Combine::kMean, true);
  table["amax"] = over_dims(Combine::kMax, false);
  table["amin"] = over_dims(Combine::kMin, false);
  table["max"] = over_all(Combine::kMax, false);
  table["min"] = over_all(Combine::kMin, false);
  table["prod"] = over_all(Combine::kProduct, false);
  table["prod.dim_int"] = over_dims(Combine::kProduct, false);
  table["any"] = over_all(Combine::kAny, false);
  table["any.dim"] = table["any.dims"] = over_dims(Combine::kAny, false);
  table["all"] = over_all(Combine::kAll, false);
  table["all.dim"] = table["all.dims"] = over_dims(Combine::kAll, false);
  table["max.dim"] = table["min.dim"] = with_indices;
  table["argmax"] = table["argmin"] = arg_of;
  table["logsumexp"] = over_dims(Combine::kUnknown, false);
  table["var.correction"] = [](RuleBuilder& b) { reduce(b, b.integers(1), b.flag(3), Combine::kUnknown); };
  table["var_mean.correction"] = table["std.correction"] = table["var.correction"];
  table["linalg_vector_norm"] = table["_foreach_norm.Scalar"] = vector_norm;
  table["norm.Scalar"] = table["norm.ScalarOpt_dim"] = vector_norm;
  table["cumsum"] = table["cumprod"] = whole_along(1, "it accumulates along");
  table["flip"] = moved_along(1, "it is turned round");
  table["roll"] = moved_along(2, "it is rolled");
  table["topk"] = topk;
  table["sort"] = sorted_along(1);
  table["sort.stable"] = sorted_along(2);
  table["argsort"] = sorted_along(1);
  table["tril"] = table["triu"] = triangle;
  table["_softmax"] = softmax(Exchange::kSoftmax);
  table["_log_softmax"] = softmax(Exchange::kLogSoftmax);
  table["_safe_softmax"] = whole_along(1, "it is normalised over");
  table["_softmax_backward_data"] = softmax_backward(Exchange::kSoftmaxBackward);
  table["_log_softmax_backward_data"] = softmax_backward(Exchange::kLogSoftmaxBackward);
}

}  // namespace moai::ops
