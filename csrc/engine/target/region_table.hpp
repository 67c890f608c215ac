// The regions of a target, by address and by page number.
//
// A page keeps its number for good, wherever its region is moved and however that region is split.
// Any number of threads may look up at once, while no thread moves or removes.
#pragma once

#include <map>
#include <ranges>
#include <vector>

#include "engine/target/region.hpp"

namespace uffd {

// Page numbers [first, end).
struct PageRun {
  uint64_t first, end;
};

class RegionTable {
 public:
  RegionTable() = default;  // without any
  // Numbers their pages in the order of their addresses, and their sources in that of the list.
  // Throws std::invalid_argument where two overlap.
  explicit RegionTable(std::vector<Region> regions);
  RegionTable(const RegionTable& other);  // with the same page numbers, and without a ledger
  RegionTable(RegionTable&& other) = default;
  // With the numbers that the regions have, and their places in the ledger, which outlives the
  // table. Throws std::invalid_argument where two overlap.
  RegionTable(std::vector<Region> regions, uint64_t pages, Ledger& ledger, PlaceFacts::Kind kind);
  RegionTable& operator=(const RegionTable&) = delete;

  // O(log n); nullptr where the address, or the page number, is in none.
  const Region* find(uint64_t address) const noexcept;
  const Region* find_page(uint64_t page) const noexcept;
  // The last region that begins at or below the address; nullptr where there is none.
  const Region* find_below(uint64_t address) const noexcept;
  // The region with the lowest start above an address.
  const Region* find_above(uint64_t address) const noexcept;

  // By address.
  auto all() const noexcept { return std::views::values(by_address_); }
  size_t size() const noexcept { return by_address_.size(); }
  bool empty() const noexcept { return by_address_.empty(); }
  // The number of pages that the table began with: it never shrinks.
  uint64_t pages() const noexcept { return pages_; }
  std::vector<Range> ranges() const;

  // Calls visit(region, run) for each region that overlaps the range, and its pages in it.
  template <typename Visit>
  void for_each_in(const Range& range, Visit visit) const {
    const Region* below = find_below(range.start);
    auto next = by_address_.lower_bound(below ? below->range.start : range.start);
    for (; next != by_address_.end() && next->first < range.end(); ++next) {
      const Region& region = next->second;
      const Range part = region.range.intersection(range);
      if (part.length == 0) continue;
      const uint64_t last = region.page_at(part.end() - 1);
      visit(region, PageRun{region.page_at(part.start), last + 1});
    }
  }

  // remove() and move() split regions at the ends of the range. O(log n) for each region in it.
  void remove(const Range& range);
  // What lies at from lies at to now; no region may lie at to before.
  void move(const Range& from, uint64_t to);
  // Adds a copy of a region of another table: the part that lies in from, at to instead.
  void add_copy(const Region& region, const Range& from, uint64_t to);

  // Notes where the regions lie, from now on, in a ledger that outlives the table.
  void note_in(Ledger& ledger, PlaceFacts::Kind kind) noexcept;

  // The ledger is to be marked as incomplete before: its places stay.
  void clear() noexcept {
    by_page_.clear();
    by_address_.clear();
  }

  // Calls change(region) for each region; change() leaves its range and its page numbers alone.
  template <typename Change>
  void for_each(Change change) {
    for (auto& [start, region] : by_address_) {
      change(region);
      amend(region);
    }
  }

 private:
  void insert(Region region);
  void insert_apart(Region region);  // of all others; throws std::invalid_argument
  void split_at(uint64_t address);
  Ledger::Slot note(const Region& region) noexcept;
  void amend(const Region& region) noexcept;

  std::map<uint64_t, Region> by_address_;
  std::map<uint64_t, const Region*> by_page_;
  uint64_t pages_ = 0;
  Ledger* ledger_ = nullptr;
  PlaceFacts::Kind kind_ = PlaceFacts::Kind::region;
};

}  // namespace uffd
