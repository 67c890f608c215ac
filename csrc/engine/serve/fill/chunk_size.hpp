// How much a filler installs at once: as much as takes kLongestNs at the speed seen so far, since a
// fault may have to wait for it. Under the lock of its FillJob; pure.
#pragma once

#include <algorithm>
#include <cstdint>

namespace uffd {

class ChunkSize {
 public:
  static constexpr uint64_t kLongestNs = 100'000;
  static constexpr uint64_t kLeast = 64 * 1024;  // so that the system call does not show
  static constexpr uint64_t kMost = 2 * 1024 * 1024;

  // The size of a chunk in pages, one at least.
  uint64_t pages(uint64_t page_size) const noexcept {
    return std::max<uint64_t>(std::clamp(bytes_, kLeast, kMost) / page_size, 1);
  }

  // How long an install of so many bytes took.
  void learn(uint64_t bytes, uint64_t nanoseconds) noexcept {
    if (bytes < kLeast) return;
    const uint64_t admitted = bytes * kLongestNs / std::max<uint64_t>(nanoseconds, 1);
    bytes_ = (7 * bytes_ + std::min(admitted, kMost) + 7) / 8;
  }

 private:
  uint64_t bytes_ = 256 * 1024;  // what COPY does in some 70 us
};

}  // namespace uffd
