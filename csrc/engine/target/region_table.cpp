#include "engine/target/region_table.hpp"

#include <algorithm>
#include <stdexcept>

#include "engine/linux/error.hpp"

namespace uffd {

RegionTable::RegionTable(std::vector<Region> regions) : regions_(std::move(regions)) {
  if (regions_.empty()) throw std::invalid_argument("a target needs at least one region");
  std::sort(regions_.begin(), regions_.end(),
            [](const Region& a, const Region& b) { return a.range.start < b.range.start; });
  uint64_t page = 0;
  const Region* previous = nullptr;
  for (Region& region : regions_) {
    if (previous && previous->range.overlaps(region.range)) {
      throw std::invalid_argument(
          "regions " + range_text(previous->range.start, previous->range.length) + " and " +
          range_text(region.range.start, region.range.length) + " overlap");
    }
    region.first_page = page;
    page += region.pages();
    previous = &region;
  }
}

namespace {

// The last region that does not begin behind the key, if the key lies in it.
template <typename Begin, typename End>
const Region* find_by(std::span<const Region> regions, uint64_t key, Begin begin,
                      End end) noexcept {
  const auto next = std::partition_point(
      regions.begin(), regions.end(), [&](const Region& region) { return begin(region) <= key; });
  if (next == regions.begin()) return nullptr;
  const Region& region = *std::prev(next);
  return key < end(region) ? &region : nullptr;
}

}  // namespace

const Region* RegionTable::find(uint64_t address) const noexcept {
  return find_by(
      regions_, address, [](const Region& region) { return region.range.start; },
      [](const Region& region) { return region.range.end(); });
}

const Region* RegionTable::find_page(uint64_t page) const noexcept {
  return find_by(
      regions_, page, [](const Region& region) { return region.first_page; },
      [](const Region& region) { return region.end_page(); });
}

std::vector<Range> RegionTable::ranges() const {
  std::vector<Range> ranges;
  ranges.reserve(regions_.size());
  for (const Region& region : regions_) ranges.push_back(region.range);
  return ranges;
}

}  // namespace uffd
