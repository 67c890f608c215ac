#include "engine/target/region_table.hpp"

#include <algorithm>
#include <iterator>
#include <stdexcept>

#include "engine/linux/error.hpp"

namespace uffd {

RegionTable::RegionTable(std::vector<Region> regions) {
  std::sort(regions.begin(), regions.end(),
            [](const Region& a, const Region& b) { return a.range.start < b.range.start; });
  for (Region& region : regions) {
    const Region* previous = find_below(region.range.start);
    if (previous && previous->range.overlaps(region.range)) {
      throw std::invalid_argument(
          "regions " + range_text(previous->range.start, previous->range.length) + " and " +
          range_text(region.range.start, region.range.length) + " overlap");
    }
    region.first_page = pages_;
    pages_ += region.pages();
    insert(std::move(region));
  }
}

RegionTable::RegionTable(const RegionTable& other) : pages_(other.pages_) {
  for (const Region& region : other.all()) insert(region);
}

const Region* RegionTable::find_above(uint64_t address) const noexcept {
  const auto above = by_address_.upper_bound(address);
  return above == by_address_.end() ? nullptr : &above->second;
}

const Region* RegionTable::find_below(uint64_t address) const noexcept {
  const auto next = by_address_.upper_bound(address);
  return next == by_address_.begin() ? nullptr : &std::prev(next)->second;
}

const Region* RegionTable::find(uint64_t address) const noexcept {
  const Region* region = find_below(address);
  return region && region->range.contains(address) ? region : nullptr;
}

const Region* RegionTable::find_page(uint64_t page) const noexcept {
  const auto next = by_page_.upper_bound(page);
  if (next == by_page_.begin()) return nullptr;
  const Region* region = std::prev(next)->second;
  return page < region->end_page() ? region : nullptr;
}

std::vector<Range> RegionTable::ranges() const {
  std::vector<Range> ranges;
  ranges.reserve(size());
  for (const Region& region : all()) ranges.push_back(region.range);
  return ranges;
}

void RegionTable::insert(Region region) {
  const uint64_t start = region.range.start;
  // The hint: regions mostly come in order.
  const auto inserted = by_address_.emplace_hint(by_address_.end(), start, std::move(region));
  by_page_.emplace_hint(by_page_.end(), inserted->second.first_page, &inserted->second);
}

namespace {

// The part of a region that lies in the range, with its page numbers.
Region part_of(const Region& region, const Range& range) {
  Region part = region;
  part.range = region.range.intersection(range);
  part.first_page = region.page_at(part.range.start);
  part.source_offset = region.offset_of(part.first_page);
  return part;
}

}  // namespace

void RegionTable::split_at(uint64_t address) {
  const auto next = by_address_.upper_bound(address);
  if (next == by_address_.begin()) return;
  Region& region = std::prev(next)->second;
  if (address == region.range.start || !region.range.contains(address)) return;
  Region rest = part_of(region, {address, region.range.end() - address});
  region.range.length = address - region.range.start;
  insert(std::move(rest));
}

void RegionTable::add_copy(const Region& region, const Range& from, uint64_t to) {
  Region copy = part_of(region, from);
  copy.range.start = to + (copy.range.start - from.start);
  insert(std::move(copy));
}

void RegionTable::remove(const Range& range) {
  split_at(range.start);
  split_at(range.end());
  const auto first = by_address_.lower_bound(range.start);
  const auto end = by_address_.lower_bound(range.end());
  for (auto region = first; region != end; ++region) by_page_.erase(region->second.first_page);
  by_address_.erase(first, end);
}

void RegionTable::move(const Range& from, uint64_t to) {
  split_at(from.start);
  split_at(from.end());
  std::vector<Region> moved;
  for_each_in(from, [&](const Region& region, PageRun) { moved.push_back(region); });
  remove(from);
  for (Region& region : moved) {
    region.range.start = to + (region.range.start - from.start);
    insert(std::move(region));
  }
}

}  // namespace uffd
