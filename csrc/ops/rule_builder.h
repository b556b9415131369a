#pragma once

#include <functional>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ops/rule.h"

namespace moai::ops {

// Makes the rule of one node; what the entries in ops/<family>.cpp are written with.
//
//   b.line("i k, k j -> i j");                              a name is a dim
//   b.count("c", 1); b.line("r* c*, c* -> r* c*, r* 1*");   a name with * any number of dims
//   b.line("i j, i k, k j -> i j", {0, 1, 2});              terms go with arguments; absent ones are passed
//   over
//
// `1` is a dim of size 1, `.` one that lies whole, `(g c)` one made of two factors, whose sizes but one
// `size` has said. A dim of size 1 under a name broadcasts. At most one
// starred name of a term may have no count yet: it takes the dims that are left. Tensors and dims that no
// line speaks of lie whole. A factor that a result lacks is summed, unless `combine` says otherwise.
class RuleBuilder {
 public:
  RuleBuilder(const ir::Graph& graph, const ir::Node& node);

  const ir::Node& node() const { return node_; }
  // By argument of the op's schema; kNone, empty or the fallback where it is absent.
  int32_t operand(size_t arg) const;
  std::vector<int32_t> operand_list(size_t arg) const;
  int64_t integer(size_t arg, int64_t fallback = 0) const;
  // Nothing where it is absent, or a number of the step.
  std::optional<double> number(size_t arg) const;
  bool flag(size_t arg, bool fallback = false) const;
  std::vector<int64_t> integers(size_t arg) const;
  const ir::Dims& sizes(int32_t operand) const;
  ir::DType dtype(int32_t operand) const;
  const ir::Dims& result_sizes(size_t result) const;
  size_t result_count() const { return node_.results.size(); }
  // A dim counted from the end, as one counted from the start. Throws on one that is neither.
  int64_t wrap(int64_t dim, size_t rank) const;
  // Throws Error(Phase::kPlan) that names the op.
  [[noreturn]] void contradiction(const std::string& what) const;

  void count(const std::string& name, size_t dims) { counts_[name] = dims; }
  void size(const std::string& name, int64_t size) { sizes_[name] = size; }
  void line(std::string_view text, std::initializer_list<int> args = {});
  // Every operand and every result against the dims of the widest, from the right, as broadcasting does.
  void broadcast();

  // The factors that a name of a line stands for; none of a dim of size 1.
  std::vector<int32_t> factors(const std::string& name) const;
  int64_t factor_size(int32_t factor) const { return rule_.factors[factor].size; }
  // For tensors that no line can describe: the factors of each dim, made by `add_factor`.
  int32_t add_factor(std::string name, int64_t size, bool whole = false);
  void say_operand(int32_t operand, TensorFactors factors);
  void say_result(size_t result, TensorFactors factors);
  const TensorFactors& operand_factors(size_t operand) const { return rule_.operands[operand]; }
  const TensorFactors& result_factors(size_t result) const { return rule_.results[result]; }

  void whole(const std::string& name, const std::string& why = "");
  // No node of the graph may split it.
  void indivisible(const std::string& name);
  void positional(const std::string& name, Position how, int32_t at = ir::kNone, int32_t to = ir::kNone);
  // Says through which window a factor sees another: it may be split, and the other one with it alone.
  void window(int32_t factor, const Window& window);
  // Says that a factor trades for another: see Factor.
  void trades(const std::string& name, const std::string& other);
  void exchanges(const std::string& name, int32_t count, Exchange how, int64_t dim);
  // For one result, or for all (-1).
  void combine(const std::string& name, Combine how, int32_t result = -1);
  void additive(int32_t operand);
  void replicated(int32_t operand) { rule_.replicated.push_back(operand); }
  // Says that an operand is the gradient of a mean over all factors.
  void averaged(int32_t operand) { rule_.averaged.push_back(operand); }
  void linear(std::initializer_list<int32_t> operands);
  void linear_in_all();
  // An integer argument that is the product of these names' sizes.
  void size_argument(int32_t arg, std::initializer_list<const char*> names);
  void local_argument(LocalArg local) { rule_.local_args.push_back(std::move(local)); }
  void size_element_argument(int32_t arg, int32_t element, std::initializer_list<const char*> names);
  void result_sizes_argument(int32_t arg);  // a list that is the first result's sizes
  void flops(double count) { rule_.flops = count; }
  void scratch(double bytes, std::vector<int32_t> factors) {
    rule_.scratch.push_back({bytes, std::move(factors)});
  }
  // A multiply-add for each combination of all factors.
  void contraction_flops(double times = 1);
  void free() { rule_.free = true; }
  void why_whole(const std::string& why) { rule_.why_whole = why; }

  // Fills in what no line spoke of; checks the factors against the sizes.
  Rule finish(bool known);

 private:
  struct Token {
    std::string name;  // of a compound, with its brackets
    bool star = false;
  };
  struct Term {
    std::vector<Token> tokens;
    const ir::Dims* sizes = nullptr;
    TensorFactors* factors = nullptr;
  };

  const ir::Type& type(int32_t operand) const;
  Term term(std::string_view text, const ir::Dims& sizes, TensorFactors& factors, char& spoken) const;
  std::vector<std::string> names_of_dims(const Term& term);
  void bind(std::vector<Term>& terms);
  std::vector<std::string> parts_of(const std::string& name, int64_t size);
  int32_t named_factor(const std::string& name, int64_t size);
  void drop_what_types_forbid();

  const ir::Graph& graph_;
  const ir::Node& node_;
  Rule rule_;
  std::map<std::string, size_t> counts_;
  std::map<std::string, int64_t> sizes_;
  std::map<std::string, int32_t> factor_of_;  // by name of a dim: `k`, or `r.0` of a group
  std::vector<char> operand_spoken_, result_spoken_;
};

// A term for a line: `d0 d1 …`, but `name` in the place of dim `dim` (none where that is empty).
std::string dims_but(size_t rank, int64_t dim, const char* name = ".");

using RuleEntry = std::function<void(RuleBuilder&)>;
using RuleTable = std::unordered_map<std::string, RuleEntry>;  // by name without `aten.`

// One for each file of families.
void add_contractions(RuleTable& table);
void add_normalisations(RuleTable& table);
void add_reductions(RuleTable& table);
void add_attention(RuleTable& table);
void add_losses(RuleTable& table);
void add_indexing(RuleTable& table);
void add_convolutions(RuleTable& table);
void add_creation(RuleTable& table);
void add_views(RuleTable& table);
// The rule of an `update` node, which writes `region` of a value of type `whole`.
void say_update(RuleBuilder& builder, const ir::Type& whole, const ir::Type& region);
void add_pointwise(RuleTable& table);
std::vector<std::string> pointwise_rules();  // the names that it adds
void add_optimizers(RuleTable& table);
void add_host_copies(RuleTable& table);
void add_routed_rows(RuleTable& table);
void add_expert_rows(RuleTable& table);

}  // namespace moai::ops
