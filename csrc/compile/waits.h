#pragma once

#include <cstdint>

#include "compile/program.h"

namespace moai::compile {

// Whether an instruction is where all devices wait before any of them writes its inputs.
bool is_barrier(const Program& program, const Instruction& instruction);

// Note [When a collective is waited for]
// A collective is started where it stands and waited for before the first instruction that touches its result
// or writes what it reads, so that devices need not meet at each of them, and several are on their way at
// once. All of a group start them in the same order, and to start one blocks nobody: a program that ends with
// each waited for at once ends so too. What is on its way keeps its memory: of an operand in place that is
// there anyway, of small ones in any case, of others while there is room below the program's peak. Nothing is
// on its way at the barrier, behind which nothing may raise.

// The same holds of copies to the host and from it, which are begun to give memory back: small ones, too,
// keep it only where there is room.

// Says for every collective and host copy of a lowered program when it is waited for, and lets its buffers
// live until then. Before plan_memory. `small_bytes`: of operand and result together, on average in a bucket.
void place_waits(Program& program, int64_t small_bytes = int64_t{256} << 10);

}  // namespace moai::compile
