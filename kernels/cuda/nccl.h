#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "runtime/communicator.h"

namespace moai::cuda {

// The transport of GPUs of this process, by NCCL: a communicator for each group and GPU, made without
// blocking when a GPU joins, on a stream of its own. See Note [Rules of a group], of which two are NCCL's
// own: values are combined in an order that the number and the wiring of the GPUs fix, which is not that of
// ranks; and kMax and kMin of floating point pass over a NaN where another member has a number.
//
// A wait watches for errors of its group, and gives up after `patience`. A failure aborts every
// communicator, so that no kernel of NCCL runs on; `reset` makes them anew. What the members start in a group
// is not compared: where it differs, a wait ends by its patience.
std::shared_ptr<runtime::Transport> make_nccl_transport(std::vector<int> gpus,
                                                        std::chrono::milliseconds patience);

}  // namespace moai::cuda
