// A range of addresses.
#pragma once

#include <cstdint>

namespace uffd {

struct Range {
  uint64_t start = 0;
  uint64_t length = 0;

  uint64_t end() const noexcept { return start + length; }
  bool overlaps(const Range& other) const noexcept {
    return start < other.end() && other.start < end();
  }
};

}  // namespace uffd
