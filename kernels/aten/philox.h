#pragma once

#include <cmath>
#include <cstdint>

// Compiled by nvcc too, for GPUs.
#ifdef __CUDACC__
#define MOAI_HOST_DEVICE __host__ __device__
#else
#define MOAI_HOST_DEVICE
#endif

namespace moai::aten {

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11): the block
// for (key = seed, counter = (block index, op counter)) is four random words. A draw for element
// n is a function of (seed, counter, n) alone.
class Philox {
 public:
  MOAI_HOST_DEVICE Philox(uint64_t seed, uint64_t counter) : seed_(seed), counter_(counter) {}

  // Two elements share a block, each with 64 bits of its own.
  MOAI_HOST_DEVICE uint64_t bits64(int64_t n) {
    select(static_cast<uint64_t>(n) >> 1);
    const int lane = static_cast<int>(n & 1) * 2;
    return static_cast<uint64_t>(words_[lane]) << 32 | words_[lane + 1];
  }
  // In [0, 1), 53 bits.
  MOAI_HOST_DEVICE double uniform(int64_t n) { return static_cast<double>(bits64(n) >> 11) * 0x1.0p-53; }
  // In (0, 1].
  MOAI_HOST_DEVICE double open_uniform(int64_t n) {
    return static_cast<double>((bits64(n) >> 11) + 1) * 0x1.0p-53;
  }
  // Standard normal, by Box and Muller: the two elements of a block are the pair.
  MOAI_HOST_DEVICE double normal(int64_t n) {
    const int64_t even = n & ~int64_t{1};
    if (normal_block_ != even) {
      const double radius = std::sqrt(-2.0 * std::log(open_uniform(even)));
      const double angle = 2.0 * M_PI * uniform(even + 1);
      normals_[0] = radius * std::cos(angle);
      normals_[1] = radius * std::sin(angle);
      normal_block_ = even;
    }
    return normals_[n & 1];
  }

 private:
  MOAI_HOST_DEVICE void select(uint64_t block) {
    if (block == block_) return;
    block_ = block;
    uint32_t c0 = static_cast<uint32_t>(block);
    uint32_t c1 = static_cast<uint32_t>(block >> 32);
    uint32_t c2 = static_cast<uint32_t>(counter_);
    uint32_t c3 = static_cast<uint32_t>(counter_ >> 32);
    uint32_t k0 = static_cast<uint32_t>(seed_);
    uint32_t k1 = static_cast<uint32_t>(seed_ >> 32);
    for (int round = 0; round < 10; ++round) {
      const uint64_t p0 = uint64_t{0xD2511F53} * c0;
      const uint64_t p1 = uint64_t{0xCD9E8D57} * c2;
      c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
      c1 = static_cast<uint32_t>(p1);
      c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
      c3 = static_cast<uint32_t>(p0);
      k0 += 0x9E3779B9;
      k1 += 0xBB67AE85;
    }
    words_[0] = c0;
    words_[1] = c1;
    words_[2] = c2;
    words_[3] = c3;
  }

  uint64_t seed_;
  uint64_t counter_;
  uint64_t block_ = ~uint64_t{0};
  uint32_t words_[4] = {};
  int64_t normal_block_ = -1;
  double normals_[2] = {};
};

}  // namespace moai::aten
