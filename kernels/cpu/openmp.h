#pragma once

namespace moai::cpu {

// Note [Threads at hand]
// For each thread that ever ran an op on several, OpenMP (GCC's, which torch brings) keeps those others at
// hand. While all of them are no more than the cores, they spin between two ops; else they sleep, and each op
// of a device wakes its threads anew, which takes longer than most small ops do. So what is no device has
// them only while it computes.

// Ends the threads that OpenMP keeps for the calling thread, whose next op begins them anew. Costs next to
// nothing where there are none.
void release_threads();

}  // namespace moai::cpu
