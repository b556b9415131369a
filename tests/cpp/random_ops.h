// Random small graphs of real ops, as text: what rules, options and the planner are tried on.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "ir/error.h"

namespace moai::plan {

// Chains of a few ops over matrices (rows, columns), of sizes at which splitting pays, some of them odd.
// Every op reads the newest value, and others read older ones: residuals, shared weights.
class RandomOps {
 public:
  explicit RandomOps(uint32_t seed) : random_(seed) {}

  // Of `nodes` or a few more: attention comes with its reshapes.
  std::string make(size_t nodes) {
    add_value(row_sizes_[below(4)], column_sizes_[below(4)]);
    inputs_ = declare(0);
    while (static_cast<size_t>(std::count(body_.begin(), body_.end(), '\n')) < nodes) add_op();
    return concat("graph(", inputs_, ") numbers(f) {\n", body_, "return ", name(values_.size() - 1), "\n}");
  }

  int below(int end) { return static_cast<int>(random_() % static_cast<uint32_t>(end)); }

 private:
  struct Matrix {
    int64_t rows, columns;
  };

  static std::string name(size_t value) { return concat("%v", value); }
  static std::string type(const Matrix& m) { return concat("bf16[", m.rows, ",", m.columns, "]"); }
  std::string declare(size_t value) const { return concat(name(value), ": ", type(values_[value])); }

  size_t add_value(int64_t rows, int64_t columns) {
    values_.push_back({rows, columns});
    return values_.size() - 1;
  }

  std::string add_input(const std::string& text_type) {
    const std::string made = concat("%i", inputs_made_++);
    inputs_ += concat(", ", made, ": ", text_type);
    return made;
  }

  // Another value of these sizes: an older one, or a new input.
  std::string other(const Matrix& like) {
    for (size_t v = 0; v + 1 < values_.size(); ++v) {
      if (values_[v].rows == like.rows && values_[v].columns == like.columns && below(2)) return name(v);
    }
    return add_input(type(like));
  }

  void add_op() {
    const size_t last = values_.size() - 1;
    const Matrix m = values_[last];
    const std::string x = name(last);
    const auto same = [&](const std::string& call) {
      const size_t out = add_value(m.rows, m.columns);
      body_ += concat(declare(out), " = ", call, "\n");
    };
    switch (below(8)) {
      case 0: {
        const int64_t columns = column_sizes_[below(4)];
        const std::string weight = add_input(type({m.columns, columns}));
        const size_t out = add_value(m.rows, columns);
        body_ += concat(declare(out), " = aten.mm(", x, ", ", weight, ")\n");
        break;
      }
      case 1: same(concat("aten.add.Tensor(", x, ", ", other(m), ", n0)")); break;
      case 2: same(concat("aten.mul.Tensor(", x, ", ", other(m), ")")); break;
      case 3: same(concat("aten.relu(", x, ")")); break;
      case 4: same(concat("aten._softmax(", x, ", ", below(2), ", false)")); break;
      case 5: {
        const std::string row = concat("bf16[", m.columns, "]"), stat = concat("f32[", m.rows, ",1]");
        const std::string weight = add_input(row), bias = add_input(row);
        const size_t out = add_value(m.rows, m.columns);
        body_ +=
            concat(declare(out), ", %m", out, ": ", stat, ", %s", out, ": ", stat,
                   " = aten.native_layer_norm(", x, ", [", m.columns, "], ", weight, ", ", bias, ", n0)\n");
        break;
      }
      case 6: {
        const bool rows = below(2) == 1;
        const size_t out = rows ? add_value(1, m.columns) : add_value(m.rows, 1);
        body_ += concat(declare(out), " = aten.sum.dim_IntList(", x, ", [", rows ? 0 : 1, "], true, none)\n");
        const size_t back = add_value(m.rows, m.columns);
        body_ += concat(declare(back), " = aten.sub.Tensor(", x, ", ", name(out), ", n0)\n");
        break;
      }
      case 7: {
        if (m.columns % 64 != 0 || m.rows % 4 != 0) return same(concat("aten.gelu(", x, ", \"none\")"));
        const std::string heads = concat("bf16[4,", m.columns / 64, ",", m.rows / 4, ",64]");
        const std::string scores = concat("f32[4,", m.columns / 64, ",", m.rows / 4, "]");
        const size_t out = add_value(m.rows, m.columns);
        const std::string keys = add_input(heads);
        body_ += concat("%q", out, ": ", heads, " = moai.reshape(", x, ", [4,", m.columns / 64, ",",
                        m.rows / 4, ",64])\n");
        body_ += concat("%o", out, ": ", heads, ", %l", out, ": ", scores,
                        " = aten._scaled_dot_product_flash_attention_for_cpu(%q", out, ", ", keys, ", ", keys,
                        ", n0, ", below(2) ? "true" : "false", ", none, none)\n");
        body_ += concat(declare(out), " = moai.reshape(%o", out, ", [", m.rows, ",", m.columns, "])\n");
        break;
      }
    }
  }

  static constexpr int64_t row_sizes_[] = {16384, 8192, 4098, 3000};
  static constexpr int64_t column_sizes_[] = {4096, 8192, 1024, 3001};
  std::mt19937 random_;
  std::vector<Matrix> values_;
  int inputs_made_ = 0;
  std::string inputs_, body_;
};

}  // namespace moai::plan
