// Durations in nanoseconds, counted in buckets of 1/8 of a power of two: 12.5 % wide at most, exact
// below 16 ns.
//
// One thread records; any thread may read meanwhile, and sees each count or the one before it.
// Recording neither locks nor allocates.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace uffd {

class LatencyHistogram {
 public:
  static constexpr unsigned kSubBits = 3;                          // 8 buckets to a power of two
  static constexpr size_t kBuckets = (40 - kSubBits) << kSubBits;  // up to 2^39 ns, nine minutes

  static constexpr size_t bucket_of(uint64_t nanoseconds) noexcept {
    if (nanoseconds < (2u << kSubBits)) return static_cast<size_t>(nanoseconds);
    const unsigned shift = static_cast<unsigned>(std::bit_width(nanoseconds)) - 1 - kSubBits;
    const size_t bucket = (size_t{shift} << kSubBits) + static_cast<size_t>(nanoseconds >> shift);
    return bucket < kBuckets ? bucket : kBuckets - 1;
  }

  // The smallest duration that falls into the bucket.
  static constexpr uint64_t lower_bound(size_t bucket) noexcept {
    if (bucket < (2u << kSubBits)) return bucket;
    const size_t shift = (bucket >> kSubBits) - 1;
    const uint64_t mantissa = (bucket & ((1u << kSubBits) - 1)) + (1u << kSubBits);
    return mantissa << shift;
  }

  void record(uint64_t nanoseconds) noexcept {
    auto& count = counts_[bucket_of(nanoseconds)];
    count.store(count.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }

  uint64_t count(size_t bucket) const noexcept {
    return counts_[bucket].load(std::memory_order_relaxed);
  }

 private:
  std::array<std::atomic<uint64_t>, kBuckets> counts_{};
};

}  // namespace uffd
