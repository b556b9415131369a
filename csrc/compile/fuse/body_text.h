#pragma once

#include <cstdint>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "compile/fuse/emit.h"
#include "compile/fuse/kernel.h"

namespace moai::compile {

// Writes the body of a kernel: its steps for one row, reductions one after the other, and what it stores.
// Where rows come from and where operands lie says who derives from it. The text that is around has
// `columns`, `lanes` and `packs`: so many packs of lanes are gone through first, then the columns that are
// left, one by one.
class BodyText {
 public:
  virtual ~BodyText() = default;

 protected:
  explicit BodyText(const Kernel& kernel);

  // The word that has number `n`.
  virtual std::string number_word(size_t n) const = 0;
  // What `row_index` or `column_index` refer to, once `column` is there.
  virtual void write_places(const char* indent) = 0;
  // Where an operand's element lies: of this row, and of this column of it.
  virtual std::string row_index(size_t operand) const = 0;
  virtual std::string column_index(size_t operand) const = 0;
  // From a column to the next: an expression that is 0 or 1 where packs are gone through.
  virtual std::string column_stride(size_t operand) const = 0;

  void write_body();

  size_t operands() const { return kernel_.inputs.size() + kernel_.outputs.size(); }
  const Operand& operand(size_t o) const;

  const Kernel& kernel_;
  std::ostringstream out_;

 private:
  using Steps = std::vector<bool>;  // by step

  std::string expression(const Step& step) const;
  void write_step(size_t s, const char* indent, const std::string& loaded = "");
  Steps needed(const std::vector<int32_t>& roots) const;
  // For all columns: these steps, and then what `then(indent)` writes for each, and for all lanes of a pack
  // `store(indent, is_pack)`.
  void write_loop(const Steps& which, const std::function<void(const char*)>& then,
                  const std::function<void(const char*, bool)>& store);
  void write_of_row(int32_t depth);
  void write_reductions(int32_t depth);
  void write_results();

  std::vector<int32_t> depth_of_;  // by step: how many reductions come one after the other
  int32_t deepest_ = 0;
};

const char* c_type(ir::DType dtype);

// Elements that one thread moves at a time: as many as take 16 bytes of the smallest type, 8 at most.
int64_t lanes_of(const Kernel& kernel);
// Bytes that a pack of a type has to be aligned to.
int64_t pack_alignment(ir::DType dtype, int64_t lanes);

}  // namespace moai::compile
