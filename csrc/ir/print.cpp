#include <charconv>
#include <cmath>
#include <string>
#include <string_view>

#include "ir/graph.h"
#include "ir/words.h"

namespace moai::ir {

namespace {

// A list of inputs or numbers goes on in a new line after this many columns.
constexpr size_t kWrapColumn = 100;

class Printer {
 public:
  explicit Printer(const Graph& graph) : graph_(graph) {
    text_.reserve(64 * graph.values().size() + 16 * graph.numbers().size());
  }

  void header() {
    text_ += "graph(";
    list(graph_.inputs(), [&](ValueId input) { typed_value(input); });
    text_ += ')';
    if (!graph_.numbers().empty()) {
      text_ += " numbers(";
      list(graph_.numbers(), [&](NumberKind kind) { text_ += number_letter(kind); });
      text_ += ')';
    }
    if (!graph_.hints().empty()) {
      text_ += " hints(";
      list(graph_.hints(), [&](const Hint& hint) {
        text_ += std::to_string(hint.input) + ": " + hint.axis.str() + ' ';
        text_ += hint.dim == kNone ? "whole" : std::to_string(hint.dim);
      });
      text_ += ')';
    }
    text_ += " {\n";
  }

  void node(NodeId id) {
    const Node& node = graph_.node(id);
    for (size_t r = 0; r < node.results.size(); ++r) {
      if (r) text_ += ", ";
      typed_value(node.results[r], r < node.tied.size() ? node.tied[r] : kNone);
    }
    if (!node.results.empty()) text_ += " = ";
    if (node.section == Section::kBackward) text_ += "!bw ";
    switch (node.kind) {
      case NodeKind::kOp: op(node); break;
      case NodeKind::kView: view(node); break;
      case NodeKind::kUpdate: update(node); break;
    }
  }

  void graph() {
    header();
    for (size_t id = 0; id < graph_.nodes().size(); ++id) {
      text_ += "  ";
      node(static_cast<NodeId>(id));
      text_ += '\n';
    }
    text_ += "  return";
    for (size_t i = 0; i < graph_.outputs().size(); ++i) {
      text_ += i ? ", " : " ";
      value(graph_.outputs()[i]);
    }
    text_ += "\n}\n";
  }

  std::string take() { return std::move(text_); }

 private:
  template <typename List, typename Item>
  void list(const List& items, const Item& item) {
    bool first = true;
    for (const auto& entry : items) {
      if (!first) text_ += ',';
      if (text_.size() - line_start_ > kWrapColumn) {
        text_ += "\n      ";
        line_start_ = text_.size();
      } else if (!first) {
        text_ += ' ';
      }
      first = false;
      item(entry);
    }
  }

  void number(int64_t number) {
    char buffer[24];
    text_.append(buffer, std::to_chars(buffer, buffer + sizeof buffer, number).ptr);
  }

  // Shortest digits that read back as the same double; never mistaken for an integer.
  void number(double number) {
    if (std::isnan(number)) {
      text_ += "nan";
      return;
    }
    char buffer[40];
    const std::string_view digits(buffer, std::to_chars(buffer, buffer + sizeof buffer, number).ptr - buffer);
    text_ += digits;
    if (std::isfinite(number) && digits.find_first_of(".e") == std::string_view::npos) text_ += ".0";
  }

  void string(const std::string& string) {
    constexpr char kHex[] = "0123456789abcdef";
    text_ += '"';
    for (const char c : string) {
      const auto byte = static_cast<unsigned char>(c);
      if (c == '"' || c == '\\') {
        text_ += '\\';
        text_ += c;
      } else if (c == '\n') {
        text_ += "\\n";
      } else if (byte < 0x20 || byte >= 0x7f) {
        text_ += "\\x";
        text_ += kHex[byte >> 4];
        text_ += kHex[byte & 15];
      } else {
        text_ += c;
      }
    }
    text_ += '"';
  }

  template <typename List>
  void dims(char open, const List& dims, char close) {
    text_ += open;
    for (size_t i = 0; i < dims.size(); ++i) {
      if (i) text_ += ',';
      number(int64_t{dims[i]});
    }
    text_ += close;
  }

  void shape(const Dims& sizes, const Dims& strides) {
    dims('[', sizes, ']');
    if (!strides_are_implied(sizes, strides)) dims('{', strides, '}');
  }

  void value(ValueId id) {
    text_ += '%';
    number(int64_t{id});
  }

  void typed_value(ValueId id, int32_t tied = kNone) {
    value(id);
    if (tied != kNone) {
      text_ += '@';
      number(int64_t{tied});
    }
    text_ += ": ";
    if (id < 0 || static_cast<size_t>(id) >= graph_.values().size()) {
      text_ += '?';
      return;
    }
    const Type& type = graph_.type(id);
    text_ += dtype_name(type.dtype);
    shape(type.sizes, type.strides);
  }

  void number_ref(int32_t index) {
    text_ += 'n';
    number(int64_t{index});
  }

  void op(const Node& node) {
    if (is_plain_name(node.op.str())) {
      text_ += node.op.str();
    } else {
      string(node.op.str());
    }
    call(node, !names_operands_in_order(node));
  }

  void view(const Node& node) {
    text_ += kViewWord;
    if (!has_view_form(node)) return call(node, true);
    text_ += '(';
    value(node.operands[0]);
    offset(node.args[0]);
  }

  void update(const Node& node) {
    text_ += kUpdateWord;
    if (!has_update_form(node)) return call(node, true);
    text_ += '(';
    value(node.operands[0]);
    text_ += ", ";
    value(node.operands[1]);
    text_ += ", ";
    shape(std::get<Dims>(node.args[0]), std::get<Dims>(node.args[1]));
    offset(node.args[2]);
  }

  void offset(const Arg& arg) {
    text_ += ", offset=";
    std::visit(*this, arg);
    text_ += ')';
  }

  // `(%1, n0)`, or `[%1, %2]($1, n0)` where arguments do not name each operand once and in order.
  void call(const Node& node, bool list_operands) {
    operands_ = nullptr;
    if (!list_operands) {
      operands_ = &node.operands;
    } else {
      text_ += '[';
      for (size_t i = 0; i < node.operands.size(); ++i) {
        if (i) text_ += ", ";
        value(node.operands[i]);
      }
      text_ += ']';
    }
    text_ += '(';
    for (size_t i = 0; i < node.args.size(); ++i) {
      if (i) text_ += ", ";
      std::visit(*this, node.args[i]);
    }
    text_ += ')';
  }

  void operand(int32_t operand) {
    if (operands_) return value((*operands_)[operand]);
    text_ += '$';
    number(int64_t{operand});
  }

  template <typename List, typename Item>
  void bracketed(const char* empty, const List& items, const Item& item) {
    if (items.empty()) {
      text_ += empty;
      return;
    }
    text_ += '[';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i) text_ += ", ";
      item(items[i]);
    }
    text_ += ']';
  }

 public:  // visits the kinds of Arg
  void operator()(NoneArg) { text_ += "none"; }
  void operator()(bool flag) { text_ += flag ? "true" : "false"; }
  void operator()(int64_t number) { this->number(number); }
  void operator()(double number) { this->number(number); }
  void operator()(const std::string& string) { this->string(string); }
  void operator()(DTypeArg arg) { text_ += dtype_name(arg.dtype); }
  void operator()(const std::vector<int64_t>& list) { dims('[', list, ']'); }
  void operator()(const std::vector<double>& list) {
    bracketed(kEmptyFloats, list, [&](double number) { this->number(number); });
  }
  void operator()(const std::vector<bool>& list) {
    bracketed(kEmptyBools, list, [&](bool flag) { (*this)(flag); });
  }
  void operator()(OperandRef ref) { operand(ref.operand); }
  void operator()(const OperandListRef& ref) {
    bracketed(kEmptyOperands, ref.operands, [&](int32_t entry) {
      if (entry == kNone) {
        text_ += "none";
      } else {
        operand(entry);
      }
    });
  }
  void operator()(NumberRef ref) { number_ref(ref.index); }
  void operator()(const NumberListRef& ref) {
    bracketed(kEmptyNumbers, ref.indices, [&](int32_t index) { number_ref(index); });
  }
  void operator()(const HostScalarArg& arg) {
    text_ += "host(";
    number_ref(arg.number);
    text_ += ", ";
    text_ += dtype_name(arg.dtype);
    text_ += arg.wrapped ? ", wrapped)" : ")";
  }

 private:
  const Graph& graph_;
  const std::vector<ValueId>* operands_ = nullptr;  // null: operands print as `$index`
  std::string text_;
  size_t line_start_ = 0;
};

}  // namespace

std::string print(const Graph& graph) {
  Printer printer(graph);
  printer.graph();
  return printer.take();
}

std::string print(const Graph& graph, NodeId node) {
  Printer printer(graph);
  printer.node(node);
  return printer.take();
}

}  // namespace moai::ir
