#include "engine/target/region_table.hpp"

#include <algorithm>
#include <iterator>
#include <stdexcept>

#include "engine/linux/error.hpp"

namespace uffd {

namespace {

void number_sources(std::vector<Region>& regions) {
  std::vector<const Source*> known;
  for (Region& region : regions) {
    const auto found = std::ranges::find(known, region.source.get());
    region.source_number = static_cast<uint32_t>(found - known.begin());
    if (found == known.end()) known.push_back(region.source.get());
  }
}

PlaceFacts facts_of(const Region& region, PlaceFacts::Kind kind) {
  return {.start = region.range.start,
          .page_size = region.page_size,
          .first_page = region.first_page,
          .source_offset = region.source_offset,
          .source = region.source ? region.source_number : PlaceFacts::kNoSource,
          .modes = static_cast<uint32_t>(region.modes),
          .on_remove = static_cast<uint32_t>(region.on_remove),
          .shared = region.shared,
          .kind = kind};
}

}  // namespace

RegionTable::RegionTable(std::vector<Region> regions) {
  number_sources(regions);
  std::ranges::sort(regions, {}, [](const Region& region) { return region.range.start; });
  for (Region& region : regions) {
    region.first_page = pages_;
    pages_ += region.pages();
    insert_apart(std::move(region));
  }
}

RegionTable::RegionTable(std::vector<Region> regions, uint64_t pages, Ledger& ledger,
                         PlaceFacts::Kind kind)
    : pages_(pages), ledger_(&ledger), kind_(kind) {
  std::ranges::sort(regions, {}, [](const Region& region) { return region.range.start; });
  for (Region& region : regions) insert_apart(std::move(region));
}

void RegionTable::insert_apart(Region region) {
  const Region* previous = find_below(region.range.start);
  if (previous && previous->range.overlaps(region.range)) {
    throw std::invalid_argument(
        "regions " + range_text(previous->range.start, previous->range.length) + " and " +
        range_text(region.range.start, region.range.length) + " overlap");
  }
  insert(std::move(region));
}

RegionTable::RegionTable(const RegionTable& other) : pages_(other.pages_) {
  for (Region region : other.all()) {
    region.slot = Ledger::kNone;
    insert(std::move(region));
  }
}

void RegionTable::note_in(Ledger& ledger, PlaceFacts::Kind kind) noexcept {
  ledger_ = &ledger;
  kind_ = kind;
  for_each([this](Region& region) { region.slot = note(region); });
}

Ledger::Slot RegionTable::note(const Region& region) noexcept {
  if (!ledger_) return Ledger::kNone;
  return ledger_->note(facts_of(region, kind_), region.range.length);
}

void RegionTable::amend(const Region& region) noexcept {
  if (ledger_) ledger_->amend(region.slot, facts_of(region, kind_));
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
  rest.slot = note(rest);
  region.range.length = address - region.range.start;
  if (ledger_) ledger_->shorten(region.slot, region.range.length);
  insert(std::move(rest));
}

void RegionTable::add_copy(const Region& region, const Range& from, uint64_t to) {
  Region copy = part_of(region, from);
  copy.range.start = to + (copy.range.start - from.start);
  copy.slot = note(copy);
  insert(std::move(copy));
}

void RegionTable::remove(const Range& range) {
  split_at(range.start);
  split_at(range.end());
  const auto first = by_address_.lower_bound(range.start);
  const auto end = by_address_.lower_bound(range.end());
  for (auto region = first; region != end; ++region) {
    by_page_.erase(region->second.first_page);
    if (ledger_) ledger_->forget(region->second.slot);
  }
  by_address_.erase(first, end);
}

void RegionTable::move(const Range& from, uint64_t to) {
  split_at(from.start);
  split_at(from.end());
  std::vector<Region> moved;
  for_each_in(from, [&](const Region& region, PageRun) { moved.push_back(region); });
  // Noted at the new place before it is forgotten at the old one: this process may be killed.
  for (Region& region : moved) {
    region.range.start = to + (region.range.start - from.start);
    region.slot = note(region);
  }
  remove(from);
  for (Region& region : moved) insert(std::move(region));
}

}  // namespace uffd
