#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "compile/fuse/kernel.h"

namespace moai::compile {

// A kernel's iteration space with as few dims as all its operands allow. Strides are by operand, inputs
// first; those of the rows, then those of the columns.
struct Collapsed {
  ir::Dims rows;     // sizes; none: one row
  ir::Dims columns;  // sizes; at least one
  std::vector<ir::Dims> strides;

  int64_t row_count() const;
  int64_t column_count() const;
};
Collapsed collapse(const Kernel& kernel);

// CUDA for NVRTC, or the same expressions in C++, which tests compare with ATen. Neither includes a header of
// CUDA's.
enum class Target : uint8_t { kCuda, kCpp };

// The text of a kernel, a function `moai_kernel`; equal for kernels that differ in sizes and strides alone.
// In C++ it takes a pointer to its words (see kernel_words), in CUDA a struct of them, by value; it is
// launched with any number of blocks of kBlockThreads.
std::string emit(const Kernel& kernel, const Collapsed& collapsed, Target target);
constexpr int kBlockThreads = 256;

// What the function takes: addresses of inputs and outputs, numbers (their bits), sizes, strides.
std::vector<int64_t> kernel_words(const Kernel& kernel, const Collapsed& collapsed,
                                  const std::vector<const void*>& inputs, const std::vector<void*>& outputs,
                                  const std::vector<int64_t>& numbers);

}  // namespace moai::compile
