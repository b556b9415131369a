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
// In C++ it takes a pointer to its words (see launch_of), in CUDA a struct of them, by value; it is
// launched with any number of blocks of kBlockThreads.
//
// Note [Packs]
// A thread moves 16 bytes at a time where every operand lies so that it can: its innermost stride is 1 (or 0:
// it is the same for all), and each pack begins at a multiple of 16 bytes. That depends on the addresses at
// hand, so it is looked at for each launch; a text has both ways, and a word says which to go.
std::string emit(const Kernel& kernel, const Collapsed& collapsed, Target target);
constexpr int kBlockThreads = 256;

// How a kernel is begun: its words (addresses of inputs and outputs, numbers by their bits, sizes, strides,
// whether it moves packs), and how many blocks have something to do.
struct Launch {
  std::vector<int64_t> words;
  int64_t blocks = 1;          // 0: there is nothing to do
  std::vector<int64_t> table;  // where it is not empty, word 0 is to be the address of a copy on the device
};
Launch launch_of(const Kernel& kernel, const Collapsed& collapsed, const std::vector<const void*>& inputs,
                 const std::vector<void*>& outputs, const std::vector<int64_t>& numbers);

// See Note [Packs]. `addresses`: of inputs and outputs.
bool moves_packs(const Kernel& kernel, const Collapsed& collapsed, const std::vector<int64_t>& addresses);

}  // namespace moai::compile
