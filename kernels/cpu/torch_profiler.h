#pragma once

namespace moai::cpu {

// Registers with torch.profiler what the worker computes: each op is a kernel of the device, with the time
// it took there. Costs nothing while no profile is taken.
void register_torch_profiler();

// Marks this thread as a worker's, whose ops are the device's work.
void mark_worker_thread();

}  // namespace moai::cpu
