#include <charconv>
#include <cstddef>
#include <limits>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "ir/error.h"
#include "ir/graph.h"
#include "ir/scanner.h"
#include "ir/words.h"

namespace moai::ir {

namespace {

// What a value's name stands for. Names of the form that print gives (`%12`) go through a table by number.
class Names {
 public:
  static constexpr int32_t kUnknown = -1;

  explicit Names(size_t text_size) : limit_(text_size) {}

  // The number that a printed name stands for; -1 for a name given by hand.
  int64_t number(std::string_view name) const {
    int64_t number = -1;
    const auto read = std::from_chars(name.data(), name.data() + name.size(), number);
    const bool plain = read.ec == std::errc() && read.ptr == name.data() + name.size() &&
                       (name[0] != '0' || name.size() == 1);
    return plain && static_cast<size_t>(number) < limit_ ? number : -1;
  }

  int32_t& operator[](std::string_view name) {
    const int64_t number = this->number(name);
    if (number < 0) return by_name_.try_emplace(std::string(name), kUnknown).first->second;
    if (static_cast<size_t>(number) >= by_number_.size()) by_number_.resize(number + 1, kUnknown);
    return by_number_[number];
  }

 private:
  size_t limit_;
  std::vector<int32_t> by_number_;
  std::unordered_map<std::string, int32_t> by_name_;
};

class Parser {
 public:
  explicit Parser(const std::string& text) : scan_(text), names_(text.size()) {}

  Graph run() {
    scan_.expect_word("graph");
    list('(', ')', [&] { input(); });
    if (scan_.accept_word("numbers")) list('(', ')', [&] { number_kind(); });
    if (scan_.accept_word("hints")) list('(', ')', [&] { hint(); });
    graph_.set_hints(std::move(hints_));
    scan_.expect('{');
    while (!scan_.accept_word(kReturnWord)) node();
    add_inputs_before(std::numeric_limits<int64_t>::max());
    std::vector<ValueId> outputs;
    if (!scan_.accept('}')) {
      do {
        outputs.push_back(value());
      } while (scan_.accept(','));
      scan_.expect('}');
    }
    scan_.expect_end();
    graph_.set_outputs(std::move(outputs));
    return std::move(graph_);
  }

 private:
  struct Input {
    int64_t number;
    std::string_view name;
    Type type;
  };
  struct Result {
    Place place;
    std::string_view name;
    Type type;
    int32_t tied;
  };

  template <typename Item>
  void list(char open, char close, const Item& item) {
    scan_.expect(open);
    if (scan_.accept(close)) return;
    do {
      item();
    } while (scan_.accept(','));
    scan_.expect(close);
  }

  Dims dims(char open, char close) {
    Dims dims;
    list(open, close, [&] { dims.push_back(scan_.integer()); });
    return dims;
  }

  int32_t index() {
    const Place place = scan_.next();
    const int64_t index = scan_.integer();
    if (index < 0 || index > std::numeric_limits<int32_t>::max())
      scan_.fail(place, "this index is out of range");
    return static_cast<int32_t>(index);
  }

  DType dtype(const char* expected = "expected a dtype") {
    const Place place = scan_.next();
    DType dtype{};
    if (!parse_dtype(std::string(scan_.peek_word()), &dtype)) scan_.fail(place, expected);
    scan_.word();
    return dtype;
  }

  Dims strides(const Dims& sizes) { return scan_.peek('{') ? dims('{', '}') : contiguous_strides(sizes); }

  Type type() {
    Type type;
    type.dtype = dtype();
    type.sizes = dims('[', ']');
    type.strides = strides(type.sizes);
    return type;
  }

  // Values get their ids in the order in which they are added. Where inputs and results mix, an input waits
  // for its turn, so that a printed graph comes back with the same ids.
  void input() {
    scan_.expect('%');
    const Place place = scan_.next();
    const std::string_view name = scan_.label();
    scan_.expect(':');
    define(place, name, waiting(inputs_.size()));
    inputs_.push_back({names_.number(name), name, type()});
  }

  void hint() {
    const Place place = scan_.next();
    Hint hint;
    hint.input = index();
    if (static_cast<size_t>(hint.input) >= inputs_.size()) scan_.fail(place, "there is no such input");
    scan_.expect(':');
    hint.axis = Symbol::intern(std::string(scan_.word()));
    if (!scan_.accept_word("whole")) hint.dim = index();
    hints_.push_back(hint);
  }

  static int32_t waiting(size_t input) { return -2 - static_cast<int32_t>(input); }

  void add_inputs_before(int64_t number) {
    while (added_ < inputs_.size() && inputs_[added_].number < number) add_next_input();
  }

  void add_next_input() {
    Input& input = inputs_[added_++];
    names_[input.name] = graph_.add_input(std::move(input.type));
  }

  void define(Place place, std::string_view name, int32_t meaning) {
    int32_t& slot = names_[name];
    if (slot != Names::kUnknown) scan_.fail(place, concat("%", name, " is defined twice"));
    slot = meaning;
  }

  ValueId value() {
    scan_.expect('%');
    const Place place = scan_.next();
    const std::string_view name = scan_.label();
    int32_t meaning = names_[name];
    if (meaning == Names::kUnknown) scan_.fail(place, concat("%", name, " is not defined here"));
    while (meaning < 0) {
      add_next_input();
      meaning = names_[name];
    }
    return meaning;
  }

  void number_kind() {
    const Place place = scan_.next();
    const std::string_view letter = scan_.word();
    for (const NumberKind kind : {NumberKind::kInt, NumberKind::kFloat, NumberKind::kBool}) {
      if (letter.size() == 1 && letter[0] == number_letter(kind)) {
        graph_.add_number(kind);
        return;
      }
    }
    scan_.fail(place, "expected the kind of a number: i, f or b");
  }

  void node() {
    std::vector<Result> results;
    if (scan_.peek('%')) {
      do {
        results.push_back(result());
      } while (scan_.accept(','));
      scan_.expect('=');
    }
    Node node;
    if (scan_.accept('!')) {
      scan_.expect_word("bw");
      node.section = Section::kBackward;
    }
    if (scan_.accept_word(kViewWord)) {
      node.kind = NodeKind::kView;
      scan_.peek('[') ? call(node) : view(node);
    } else if (scan_.accept_word(kUpdateWord)) {
      node.kind = NodeKind::kUpdate;
      scan_.peek('[') ? call(node) : update(node);
    } else {
      node.op = Symbol::intern(scan_.peek('"') ? scan_.string() : std::string(scan_.word()));
      call(node);
    }
    add(std::move(node), std::move(results));
  }

  Result result() {
    scan_.expect('%');
    const Place place = scan_.next();
    const std::string_view name = scan_.label();
    const int32_t tied = scan_.accept('@') ? index() : kNone;
    scan_.expect(':');
    return {place, name, type(), tied};
  }

  void add(Node node, std::vector<Result> results) {
    std::vector<Type> types;
    types.reserve(results.size());
    for (size_t r = 0; r < results.size(); ++r) {
      types.push_back(std::move(results[r].type));
      if (results[r].tied == kNone) continue;
      node.tied.resize(results.size(), kNone);
      node.tied[r] = results[r].tied;
    }
    if (!results.empty()) {
      const int64_t number = names_.number(results[0].name);
      add_inputs_before(number >= 0 ? number : std::numeric_limits<int64_t>::max());
    }
    const NodeId id = graph_.add_node(std::move(node), std::move(types));
    for (size_t r = 0; r < results.size(); ++r) {
      define(results[r].place, results[r].name, graph_.node(id).results[r]);
    }
  }

  void view(Node& node) {
    scan_.expect('(');
    node.operands.push_back(value());
    node.args.push_back(offset());
  }

  void update(Node& node) {
    scan_.expect('(');
    node.operands.push_back(value());
    scan_.expect(',');
    node.operands.push_back(value());
    scan_.expect(',');
    Dims sizes = dims('[', ']');
    Dims strides = this->strides(sizes);
    node.args.emplace_back(std::move(sizes));
    node.args.emplace_back(std::move(strides));
    node.args.push_back(offset());
  }

  Arg offset() {
    scan_.expect(',');
    scan_.expect_word("offset");
    scan_.expect('=');
    const Place place = scan_.next();
    Arg offset = arg(nullptr);
    if (!is_offset(offset)) scan_.fail(place, "an offset is an integer or a number");
    scan_.expect(')');
    return offset;
  }

  void call(Node& node) {
    const bool listed = scan_.peek('[');
    if (listed) list('[', ']', [&] { node.operands.push_back(value()); });
    list('(', ')', [&] { node.args.push_back(arg(listed ? nullptr : &node)); });
  }

  // An operand is `%name`, which goes to the end of the node's list, or `$index` into a list given before.
  int32_t operand(Node* node) {
    const Place place = scan_.next();
    if (scan_.accept('$')) {
      if (node) scan_.fail(place, "`$` needs a list of operands: op[%0]($0)");
      return index();
    }
    if (!node) scan_.fail(place, "operands are listed: say which by `$`");
    node->operands.push_back(value());
    return static_cast<int32_t>(node->operands.size()) - 1;
  }

  int32_t number_ref() {
    int32_t number = 0;
    const Place place = scan_.next();
    if (!accept_number_ref(&number)) scan_.fail(place, "expected a number of the step, such as n0");
    return number;
  }

  bool accept_number_ref(int32_t* number) {
    const std::string_view word = scan_.peek_word();
    if (word.size() < 2 || word[0] != 'n') return false;
    const char* end = word.data() + word.size();
    const auto read = std::from_chars(word.data() + 1, end, *number);
    if (read.ec != std::errc() || read.ptr != end) return false;
    scan_.word();
    return true;
  }

  // `node` takes the operands; null where an operand is named by `$`.
  Arg arg(Node* node) {
    if (scan_.peek('%') || scan_.peek('$')) return OperandRef{operand(node)};
    if (scan_.peek('[')) return list_arg(node);
    if (scan_.peek('"')) return scan_.string();
    int32_t number = 0;
    if (accept_number_ref(&number)) return NumberRef{number};
    if (scan_.accept_word("none")) return NoneArg{};
    if (scan_.accept_word("true")) return true;
    if (scan_.accept_word("false")) return false;
    if (scan_.accept_word("host")) return host_scalar();
    if (scan_.accept_literal(kEmptyFloats)) return std::vector<double>();
    if (scan_.accept_literal(kEmptyBools)) return std::vector<bool>();
    if (scan_.accept_literal(kEmptyOperands)) return OperandListRef{};
    if (scan_.accept_literal(kEmptyNumbers)) return NumberListRef{};
    if (scan_.peek_number()) {
      if (scan_.peek_integer()) return scan_.integer();
      return scan_.real();
    }
    return DTypeArg{dtype("expected an argument")};
  }

  Arg host_scalar() {
    HostScalarArg host;
    scan_.expect('(');
    host.number = number_ref();
    scan_.expect(',');
    host.dtype = dtype();
    if (scan_.accept(',')) {
      scan_.expect_word("wrapped");
      host.wrapped = true;
    }
    scan_.expect(')');
    return host;
  }

  // The first item tells the kind of the list; the rest must agree.
  Arg list_arg(Node* node) {
    scan_.expect('[');
    if (scan_.accept(']')) return Dims();
    int32_t number = 0;
    if (scan_.peek('%') || scan_.peek('$') || scan_.peek_word() == "none") {
      OperandListRef list;
      rest(&list.operands, [&] { return scan_.accept_word("none") ? kNone : operand(node); });
      return list;
    }
    if (scan_.peek_word() == "true" || scan_.peek_word() == "false") {
      std::vector<bool> list;
      rest(&list, [&] { return scan_.accept_word("true") || (scan_.expect_word("false"), false); });
      return list;
    }
    if (accept_number_ref(&number)) {
      NumberListRef list{{number}};
      if (scan_.accept(',')) {
        rest(&list.indices, [&] { return number_ref(); });
      } else {
        scan_.expect(']');
      }
      return list;
    }
    if (scan_.peek_number() && !scan_.peek_integer()) {
      std::vector<double> list;
      rest(&list, [&] { return scan_.real(); });
      return list;
    }
    Dims list;
    rest(&list, [&] { return scan_.integer(); });
    return list;
  }

  template <typename List, typename Item>
  void rest(List* list, const Item& item) {
    do {
      list->push_back(item());
    } while (scan_.accept(','));
    scan_.expect(']');
  }

  Scanner scan_;
  Graph graph_;
  Names names_;
  std::vector<Input> inputs_;
  std::vector<Hint> hints_;
  size_t added_ = 0;  // how many of the inputs are in the graph
};

}  // namespace

Graph parse(const std::string& text) { return Parser(text).run(); }

}  // namespace moai::ir
