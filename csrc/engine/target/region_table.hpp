// The regions of a target, by address and by page number. Immutable; any thread reads it.
#pragma once

#include <span>
#include <vector>

#include "engine/target/region.hpp"

namespace uffd {

class RegionTable {
 public:
  // Sorts them and numbers their pages. Throws std::invalid_argument where there is none or two
  // overlap.
  explicit RegionTable(std::vector<Region> regions);

  // O(log n); nullptr where the address, or the page number, is in none.
  const Region* find(uint64_t address) const noexcept;
  const Region* find_page(uint64_t page) const noexcept;

  std::span<const Region> all() const noexcept { return regions_; }
  uint64_t pages() const noexcept { return regions_.back().end_page(); }
  std::vector<Range> ranges() const;

 private:
  std::vector<Region> regions_;
};

}  // namespace uffd
