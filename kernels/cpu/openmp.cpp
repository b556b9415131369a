#include "kernels/cpu/openmp.h"

// What OpenMP's libraries have; weak, since none of it need be there.
extern "C" {
[[gnu::weak]] int omp_pause_resource(int kind, int device);
[[gnu::weak]] int omp_get_initial_device();
[[gnu::weak]] void GOACC_data_start();  // GCC's alone
[[gnu::weak]] void __kmpc_fork_call();  // LLVM's and Intel's
}

namespace moai::cpu {

void release_threads() {
  // Others than GCC's end the threads of all callers by this, those at work too.
  static const bool is_gcc = omp_pause_resource != nullptr && omp_get_initial_device != nullptr &&
                             GOACC_data_start != nullptr && __kmpc_fork_call == nullptr;
  constexpr int kSoft = 1;
  if (is_gcc) omp_pause_resource(kSoft, omp_get_initial_device());
}

}  // namespace moai::cpu
