#include "engine/target/residency.hpp"

#include <algorithm>
#include <bit>

namespace uffd {

Residency::Residency(uint64_t pages)
    : pages_(pages),
      words_(std::make_unique<std::atomic<uint64_t>[]>((pages + 63) / 64)),
      missing_(pages) {}

void Residency::mark(uint64_t first, uint64_t count) noexcept {
  uint64_t newly = 0;
  for (const uint64_t end = first + count; first < end;) {
    const uint64_t bit = first % 64;
    const uint64_t bits = std::min(64 - bit, end - first);
    const uint64_t mask = (~uint64_t{0} >> (64 - bits)) << bit;
    const uint64_t before = words_[first / 64].fetch_or(mask, std::memory_order_relaxed);
    newly += static_cast<uint64_t>(std::popcount(mask & ~before));
    first += bits;
  }
  // Release: whoever sees the count at zero sees every install.
  if (newly) missing_.fetch_sub(newly, std::memory_order_acq_rel);
}

uint64_t Residency::next(uint64_t from, uint64_t end, uint64_t inverted) const noexcept {
  while (from < end) {
    const uint64_t word = words_[from / 64].load(std::memory_order_relaxed) ^ inverted;
    const uint64_t rest = word >> (from % 64);
    if (rest) return std::min(from + static_cast<uint64_t>(std::countr_zero(rest)), end);
    from = (from / 64 + 1) * 64;
  }
  return end;
}

}  // namespace uffd
