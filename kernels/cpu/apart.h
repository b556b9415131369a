#pragma once

#include <memory>

#include "kernels/aten/machine.h"
#include "runtime/memory_source.h"

namespace moai::cpu {

// The CPU treated as a GPU is: its kernels made of ATen's ops, random numbers drawn by way of the host, and
// memory that the host reaches by copies alone. Shows without a GPU that all this gives the same numbers.
// `fuses`: groups of ops are fused and compiled too, from the same steps as for a GPU, as C++.
enum class Fuses : bool { kNo, kYes };
std::unique_ptr<aten::Machine> make_apart_machine(Fuses fuses);
std::shared_ptr<runtime::MemorySource> make_apart_memory();

}  // namespace moai::cpu
