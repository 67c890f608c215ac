// A range of addresses.
#pragma once

#include <algorithm>
#include <cstdint>

namespace uffd {

struct Range {
  uint64_t start = 0;
  uint64_t length = 0;

  uint64_t end() const noexcept { return start + length; }
  bool contains(uint64_t address) const noexcept { return address - start < length; }
  bool overlaps(const Range& other) const noexcept {
    return start < other.end() && other.start < end();
  }
  // What both cover; its length is 0 where they do not overlap.
  Range intersection(const Range& other) const noexcept {
    const uint64_t from = std::max(start, other.start);
    const uint64_t to = std::min(end(), other.end());
    return {from, to > from ? to - from : 0};
  }
};

}  // namespace uffd
