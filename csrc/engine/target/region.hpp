// One registered range of a target: its page size, its source and the offset in it.
#pragma once

#include "engine/linux/range.hpp"
#include "engine/source/source.hpp"

namespace uffd {

struct Region {
  // Throws std::invalid_argument that names the wrong value: misaligned, empty, a page size that no
  // memory here has, or a source that is too short.
  Region(Range range, SourcePtr source, uint64_t source_offset, uint64_t page_size);

  uint64_t pages() const noexcept { return range.length / page_size; }
  uint64_t page_at(uint64_t address) const noexcept {
    return first_page + (address - range.start) / page_size;
  }
  uint64_t address_of(uint64_t page) const noexcept {
    return range.start + (page - first_page) * page_size;
  }
  uint64_t end_page() const noexcept { return first_page + pages(); }

  Range range;
  SourcePtr source;
  uint64_t source_offset;
  uint64_t page_size;
  uint64_t first_page = 0;  // its number among all pages of the target: set by the region table
};

}  // namespace uffd
