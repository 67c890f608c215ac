// How often, and for how long, a read of a late source that failed is tried again.
//
// The pauses between tries double from kShortest to kLongest. Pure.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>

namespace uffd {

struct Retry {
  static constexpr std::chrono::milliseconds kShortest{50};
  static constexpr std::chrono::milliseconds kLongest{2000};

  std::optional<unsigned> retries = 0;                  // empty: without end
  std::optional<std::chrono::nanoseconds> within = {};  // of the first failure; empty: without end

  // Whether to try again after so many failures, the first of which was so long ago.
  bool allows(unsigned failures, std::chrono::nanoseconds since_first) const noexcept {
    return (!retries || failures <= *retries) && (!within || since_first < *within);
  }
  // Before the next try.
  static std::chrono::nanoseconds pause(unsigned failures) noexcept {
    const unsigned doublings = std::min(failures - 1, 16U);
    return std::min<std::chrono::nanoseconds>(kShortest * (1U << doublings), kLongest);
  }
};

}  // namespace uffd
