#include "ops/rule_builder.h"

#include <algorithm>
#include <functional>

#include "ir/error.h"

namespace moai::ops {

namespace {

using ir::is_integer;

std::vector<std::string_view> split(std::string_view text, std::string_view by) {
  std::vector<std::string_view> parts;
  for (;;) {
    const size_t at = text.find(by);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + by.size());
  }
}

std::string starred(const std::string& name, size_t index) { return concat(name, ".", index); }

bool is_complex(ir::DType dtype) {
  return dtype == ir::DType::kC32 || dtype == ir::DType::kC64 || dtype == ir::DType::kC128;
}

bool is_real(ir::DType dtype) {
  return dtype == ir::DType::kF16 || dtype == ir::DType::kBF16 || dtype == ir::DType::kF32 ||
         dtype == ir::DType::kF64;
}

// Whether parts in one type, converted to another, still add up to the whole: truncated ones do not, nor do
// bools, whose sum says no more than that one of them is true.
bool keeps_sums(ir::DType from, ir::DType to) {
  if (is_integer(from)) return is_integer(to) || is_real(to) || is_complex(to);
  return (is_real(from) || is_complex(from)) && (is_real(to) || is_complex(to));
}

// Whether a collective can join such parts.
bool joins(Combine how, ir::DType dtype) {
  if (how == Combine::kSame || how == Combine::kUnknown) return true;
  if (is_complex(dtype)) return how == Combine::kSum || how == Combine::kMean || how == Combine::kWeighted;
  return is_integer(dtype) || is_real(dtype) || dtype == ir::DType::kBool;
}

}  // namespace

std::string dims_but(size_t rank, int64_t dim, const char* name) {
  std::string text;
  for (size_t d = 0; d < rank; ++d)
    text += (static_cast<int64_t>(d) == dim ? std::string(name) : concat("d", d)) + " ";
  return rank == 0 ? "1*" : text;
}

RuleBuilder::RuleBuilder(const ir::Graph& graph, const ir::Node& node)
    : graph_(graph),
      node_(node),
      operand_spoken_(node.operands.size(), 0),
      result_spoken_(node.results.size(), 0) {
  for (const auto value : node.operands) rule_.operands.emplace_back(graph.type(value).sizes.size());
  for (const auto value : node.results) rule_.results.emplace_back(graph.type(value).sizes.size());
  rule_.combine.resize(node.results.size());
}

int32_t RuleBuilder::operand(size_t arg) const {
  if (arg >= node_.args.size()) return ir::kNone;
  const auto* ref = std::get_if<ir::OperandRef>(&node_.args[arg]);
  return ref ? ref->operand : ir::kNone;
}

std::vector<int32_t> RuleBuilder::operand_list(size_t arg) const {
  if (arg >= node_.args.size()) return {};
  const auto* list = std::get_if<ir::OperandListRef>(&node_.args[arg]);
  return list ? list->operands : std::vector<int32_t>{};
}

int64_t RuleBuilder::integer(size_t arg, int64_t fallback) const {
  if (arg >= node_.args.size()) return fallback;
  const auto* value = std::get_if<int64_t>(&node_.args[arg]);
  return value ? *value : fallback;
}

std::optional<double> RuleBuilder::number(size_t arg) const {
  if (arg >= node_.args.size()) return std::nullopt;
  if (const auto* real = std::get_if<double>(&node_.args[arg])) return *real;
  const auto* integer = std::get_if<int64_t>(&node_.args[arg]);
  return integer == nullptr ? std::nullopt : std::optional<double>(static_cast<double>(*integer));
}

bool RuleBuilder::flag(size_t arg, bool fallback) const {
  if (arg >= node_.args.size()) return fallback;
  const auto* value = std::get_if<bool>(&node_.args[arg]);
  return value ? *value : fallback;
}

std::vector<int64_t> RuleBuilder::integers(size_t arg) const {
  if (arg >= node_.args.size()) return {};
  if (const auto* one = std::get_if<int64_t>(&node_.args[arg])) return {*one};
  const auto* list = std::get_if<std::vector<int64_t>>(&node_.args[arg]);
  return list ? *list : std::vector<int64_t>{};
}

const ir::Type& RuleBuilder::type(int32_t operand) const {
  if (operand < 0 || static_cast<size_t>(operand) >= node_.operands.size())
    contradiction("it lacks an operand that its rule speaks of");
  return graph_.type(node_.operands[operand]);
}

const ir::Dims& RuleBuilder::sizes(int32_t operand) const { return type(operand).sizes; }

ir::DType RuleBuilder::dtype(int32_t operand) const { return type(operand).dtype; }

const ir::Dims& RuleBuilder::result_sizes(size_t result) const {
  if (result >= node_.results.size()) contradiction("it lacks a result that its rule speaks of");
  return graph_.type(node_.results[result]).sizes;
}

int64_t RuleBuilder::wrap(int64_t dim, size_t rank) const {
  const auto dims =
      static_cast<int64_t>(std::max<size_t>(rank, 1));  // a number may be spoken of as a row of one
  if (dim < -dims || dim >= dims) contradiction(concat("it speaks of dim ", dim, " of ", rank));
  return dim < 0 ? dim + dims : dim;
}

RuleBuilder::Term RuleBuilder::term(std::string_view text, const ir::Dims& sizes, TensorFactors& factors,
                                    char& spoken) const {
  Term term;
  while (!text.empty()) {
    const size_t end = text.front() == '(' ? text.find(')') + 1 : std::min(text.find(' '), text.size());
    auto word = text.substr(0, end);
    text.remove_prefix(std::max<size_t>(end, 1));
    if (word.empty()) continue;
    const bool star = word.size() > 1 && word.back() == '*';
    if (star) word.remove_suffix(1);
    term.tokens.push_back({std::string(word), star});
  }
  term.sizes = &sizes;
  term.factors = &factors;
  spoken = 1;
  return term;
}

// The name of each dim of a term; "1" of one that has no factor, "." of one that lies whole.
std::vector<std::string> RuleBuilder::names_of_dims(const Term& term) {
  size_t known = 0;
  const Token* open = nullptr;
  for (const auto& token : term.tokens) {
    if (!token.star) {
      ++known;
    } else if (const auto it = counts_.find(token.name); it != counts_.end()) {
      known += it->second;
    } else if (open == nullptr) {
      open = &token;
    } else {
      contradiction(concat("the rule leaves open how many dims ", open->name, "* and ", token.name, "* are"));
    }
  }
  const size_t rank = term.sizes->size();
  if (known > rank || (known < rank && open == nullptr))
    contradiction(concat("the rule has ", known, " dims where a tensor has ", rank));
  const size_t rest = rank - known;
  if (open != nullptr && open->name != "1" && open->name != ".") counts_[open->name] = rest;
  std::vector<std::string> names;
  for (const auto& token : term.tokens) {
    if (!token.star) {
      names.push_back(token.name);
      continue;
    }
    const size_t dims = &token == open ? rest : counts_[token.name];
    for (size_t i = 0; i < dims; ++i) {
      const bool is_name = token.name != "1" && token.name != ".";
      names.push_back(is_name ? starred(token.name, i) : token.name);
    }
  }
  return names;
}

// The names that a dim of `size` stands for: itself, or a compound's, all sizes of which are known
// afterwards.
std::vector<std::string> RuleBuilder::parts_of(const std::string& name, int64_t size) {
  if (name.front() != '(') return {name};
  std::vector<std::string> parts;
  int64_t known = 1;
  std::string open;
  for (const auto part : split(std::string_view(name).substr(1, name.size() - 2), " ")) {
    parts.emplace_back(part);
    if (const auto it = sizes_.find(parts.back()); it != sizes_.end()) {
      known *= it->second;
    } else {
      open = parts.back();
    }
  }
  if (known == 0 || size % known != 0) contradiction(concat("a dim of ", size, " is no multiple of ", known));
  if (!open.empty()) sizes_[open] = size / known;
  return parts;
}

int32_t RuleBuilder::named_factor(const std::string& name, int64_t size) {
  auto it = factor_of_.find(name);
  if (it == factor_of_.end()) it = factor_of_.emplace(name, add_factor(name, size)).first;
  if (rule_.factors[it->second].size != size)
    contradiction(concat("dim ", name, " is ", rule_.factors[it->second].size, " in one tensor and ", size,
                         " in another"));
  return it->second;
}

void RuleBuilder::bind(std::vector<Term>& terms) {
  for (auto& term : terms) {
    const auto names = names_of_dims(term);
    for (size_t d = 0; d < names.size(); ++d) {
      const int64_t size = (*term.sizes)[d];
      auto& factors = (*term.factors)[d];
      factors.clear();
      if (names[d] == "1" && size != 1) contradiction(concat("a dim that the rule says is 1 is ", size));
      if (size == 1) continue;
      if (names[d] == ".") {
        factors.push_back(add_factor(".", size, true));
        continue;
      }
      const auto parts = parts_of(names[d], size);
      for (const auto& part : parts) {
        const int64_t part_size = parts.size() == 1 ? size : sizes_[part];
        if (part_size != 1) factors.push_back(named_factor(part, part_size));
      }
    }
  }
}

void RuleBuilder::line(std::string_view text, std::initializer_list<int> args) {
  const auto sides = split(text, "->");
  MOAI_ASSERT(sides.size() == 2, "a rule's line has one arrow: ", std::string(text));
  std::vector<Term> terms;
  const auto left = split(sides[0], ",");
  const bool nothing = sides[0].find_first_not_of(' ') == std::string_view::npos;
  for (size_t i = 0; i < left.size() && !nothing; ++i) {
    const int32_t o = args.size() == 0 ? static_cast<int32_t>(i) : operand(args.begin()[i]);
    if (o == ir::kNone) continue;
    if (static_cast<size_t>(o) >= node_.operands.size()) contradiction("it has fewer operands than its rule");
    terms.push_back(term(left[i], sizes(o), rule_.operands[o], operand_spoken_[o]));
  }
  const auto right = split(sides[1], ",");
  for (size_t i = 0; i < right.size() && i < node_.results.size(); ++i)
    terms.push_back(term(right[i], result_sizes(i), rule_.results[i], result_spoken_[i]));
  bind(terms);
}

void RuleBuilder::broadcast() {
  size_t rank = 0;
  for (const auto value : node_.operands) rank = std::max(rank, graph_.type(value).sizes.size());
  for (const auto value : node_.results) rank = std::max(rank, graph_.type(value).sizes.size());
  counts_["p"] = rank;
  std::vector<Term> terms;
  const auto add = [&](const ir::Dims& sizes, TensorFactors& factors, char& spoken) {
    Term one = term("", sizes, factors, spoken);
    for (size_t d = rank - sizes.size(); d < rank; ++d) one.tokens.push_back({starred("p", d), false});
    terms.push_back(std::move(one));
  };
  for (size_t o = 0; o < node_.operands.size(); ++o)
    add(sizes(static_cast<int32_t>(o)), rule_.operands[o], operand_spoken_[o]);
  for (size_t r = 0; r < node_.results.size(); ++r) add(result_sizes(r), rule_.results[r], result_spoken_[r]);
  bind(terms);
}

std::vector<int32_t> RuleBuilder::factors(const std::string& name) const {
  std::vector<int32_t> found;
  if (const auto it = factor_of_.find(name); it != factor_of_.end()) found.push_back(it->second);
  if (const auto it = counts_.find(name); it != counts_.end()) {
    for (size_t i = 0; i < it->second; ++i) {
      const auto one = factor_of_.find(starred(name, i));
      if (one != factor_of_.end()) found.push_back(one->second);
    }
  }
  return found;
}

int32_t RuleBuilder::add_factor(std::string name, int64_t size, bool whole) {
  Factor factor;
  factor.name = std::move(name);
  factor.size = size;
  factor.whole = whole;
  rule_.factors.push_back(std::move(factor));
  for (auto& of_result : rule_.combine) of_result.push_back(Combine::kSum);
  return static_cast<int32_t>(rule_.factors.size()) - 1;
}

void RuleBuilder::say_operand(int32_t operand, TensorFactors factors) {
  if (sizes(operand).size() != factors.size())
    contradiction(
        concat("operand ", operand, " has ", sizes(operand).size(), " dims, by the rule ", factors.size()));
  rule_.operands[operand] = std::move(factors);
  operand_spoken_[operand] = 1;
}

void RuleBuilder::say_result(size_t result, TensorFactors factors) {
  if (result_sizes(result).size() != factors.size())
    contradiction(concat("result ", result, " has ", result_sizes(result).size(), " dims, by the rule ",
                         factors.size()));
  rule_.results[result] = std::move(factors);
  result_spoken_[result] = 1;
}

void RuleBuilder::whole(const std::string& name, const std::string& why) {
  for (const auto f : factors(name)) {
    rule_.factors[f].whole = true;
    if (!why.empty()) rule_.why_whole = why;
  }
}

void RuleBuilder::indivisible(const std::string& name) {
  for (const auto f : factors(name)) rule_.factors[f].whole = rule_.factors[f].indivisible = true;
}

void RuleBuilder::positional(const std::string& name, Position how, int32_t at, int32_t to) {
  for (const auto f : factors(name)) {
    auto& factor = rule_.factors[f];
    factor.positional = true;
    factor.position = how;
    factor.position_at = at;
    factor.position_to = to;
  }
}

void RuleBuilder::window(int32_t factor, const Window& window) {
  rule_.factors[factor].window = window;
  rule_.factors[factor].whole = false;
  rule_.factors[window.over].whole = true;
}

void RuleBuilder::trades(const std::string& name, const std::string& other) {
  for (const auto f : factors(name)) {
    for (const auto g : factors(other)) rule_.factors[f].trades = g;
  }
}

void RuleBuilder::exchanges(const std::string& name, int32_t count, Exchange how, int64_t dim) {
  for (const auto f : factors(name)) {
    rule_.factors[f].exchanges = count;
    rule_.factors[f].exchange = how;
    rule_.factors[f].exchange_dim = static_cast<int32_t>(dim);
  }
}

void RuleBuilder::combine(const std::string& name, Combine how, int32_t result) {
  for (const auto f : factors(name)) {
    for (size_t r = 0; r < rule_.combine.size(); ++r) {
      if (result < 0 || static_cast<size_t>(result) == r) rule_.combine[r][f] = how;
    }
  }
}

void RuleBuilder::additive(int32_t operand) {
  if (operand != ir::kNone) rule_.additive.push_back(operand);
}

void RuleBuilder::linear(std::initializer_list<int32_t> operands) {
  std::vector<int32_t> set;
  for (const auto o : operands) {
    if (o != ir::kNone) set.push_back(o);
  }
  if (!set.empty()) rule_.linear.push_back(std::move(set));
}

void RuleBuilder::linear_in_all() {
  std::vector<int32_t> all(node_.operands.size());
  for (size_t o = 0; o < all.size(); ++o) all[o] = static_cast<int32_t>(o);
  rule_.linear.push_back(std::move(all));
}

void RuleBuilder::size_argument(int32_t arg, std::initializer_list<const char*> names) {
  size_element_argument(arg, -1, names);
}

void RuleBuilder::size_element_argument(int32_t arg, int32_t element,
                                        std::initializer_list<const char*> names) {
  LocalArg local{arg, element, {}, 1};
  for (const char* name : names) {
    for (const auto f : factors(name)) local.factors.push_back(f);
  }
  rule_.local_args.push_back(std::move(local));
}

void RuleBuilder::result_sizes_argument(int32_t arg) {
  const auto& dims = rule_.results[0];
  for (size_t d = 0; d < dims.size(); ++d)
    rule_.local_args.push_back({arg, static_cast<int32_t>(d), dims[d], 1});
}

void RuleBuilder::contraction_flops(double times) {
  rule_.flops = 2 * times;
  for (const auto& factor : rule_.factors) rule_.flops *= static_cast<double>(factor.size);
}

// An entry speaks of numbers; what holds of them need not hold of the types that they are kept in.
void RuleBuilder::drop_what_types_forbid() {
  const auto is_linear = [&](const std::vector<int32_t>& set) {
    for (const auto o : set) {
      for (const auto value : node_.results) {
        if (!keeps_sums(dtype(o), graph_.type(value).dtype)) return false;
      }
    }
    return true;
  };
  auto& sets = rule_.linear;
  sets.erase(std::remove_if(sets.begin(), sets.end(), std::not_fn(is_linear)), sets.end());
  for (size_t r = 0; r < node_.results.size(); ++r) {
    for (auto& how : rule_.combine[r]) {
      if (!joins(how, graph_.type(node_.results[r]).dtype)) how = Combine::kUnknown;
    }
  }
}

Rule RuleBuilder::finish(bool known) {
  const auto fill = [&](const ir::Dims& sizes, TensorFactors& factors, bool spoken, const std::string& what) {
    for (size_t d = 0; d < sizes.size(); ++d) {
      if (!spoken && factors[d].empty() && sizes[d] != 1)
        factors[d].push_back(add_factor(".", sizes[d], true));
      int64_t product = 1;
      for (const auto f : factors[d]) product *= rule_.factors[f].size;
      if (product != sizes[d])
        contradiction(concat(what, ", dim ", d, " is ", sizes[d], ", by the rule ", product));
    }
  };
  for (size_t o = 0; o < node_.operands.size(); ++o)
    fill(sizes(static_cast<int32_t>(o)), rule_.operands[o], operand_spoken_[o] != 0, concat("operand ", o));
  for (size_t r = 0; r < node_.results.size(); ++r)
    fill(result_sizes(r), rule_.results[r], result_spoken_[r] != 0, concat("result ", r));
  drop_what_types_forbid();
  rule_.known = known;
  return std::move(rule_);
}

void RuleBuilder::contradiction(const std::string& what) const {
  throw Error(Phase::kPlan, concat("the rule of ", node_.op.str(), " contradicts its tensors: ", what));
}

}  // namespace moai::ops
