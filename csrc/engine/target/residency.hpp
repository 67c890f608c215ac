// Which pages of a target are settled: resident, dropped, unmapped or poisoned; and the exact
// number of those that are missing.
//
// Any thread marks and asks, without a lock. A page is marked after it was installed, so "missing"
// may be a moment old (the install then says EEXIST), but "resident" is always true, unless the
// target itself dropped the page since.
#pragma once

#include "engine/linux/page_set.hpp"

namespace uffd {

class Residency {
 public:
  explicit Residency(uint64_t pages) : resident_(pages), missing_(pages) {}
  // In words of a ledger, all clear.
  Residency(uint64_t pages, std::atomic<uint64_t>* words)
      : resident_(pages, words), missing_(pages) {}
  // What a dead manager left: the words say which pages are settled.
  struct AsNoted {};
  Residency(uint64_t pages, std::atomic<uint64_t>* words, AsNoted)
      : resident_(pages, words), missing_(pages - resident_.count()) {}
  Residency(const Residency& other) : resident_(other.resident_), missing_(other.missing()) {}
  Residency& operator=(const Residency&) = delete;
  // Marks what is settled in another one of as many pages; while nobody marks in either.
  void assign(const Residency& other) noexcept {
    missing_ = pages() - resident_.assign(other.resident_);
  }

  uint64_t pages() const noexcept { return resident_.pages(); }
  uint64_t missing() const noexcept { return missing_.load(std::memory_order_acquire); }
  bool resident(uint64_t page) const noexcept { return resident_.contains(page); }

  // Marks pages as settled; returns how many of them were missing.
  uint64_t mark(uint64_t first, uint64_t count) noexcept {
    const uint64_t newly = resident_.add(first, count);
    // Release: a thread that sees the count at zero sees every install.
    if (newly) missing_.fetch_sub(newly, std::memory_order_acq_rel);
    return newly;
  }

  // The first page in [from, end) that is missing, or that is resident; end where there is none.
  uint64_t next_missing(uint64_t from, uint64_t end) const noexcept {
    return resident_.next_outside(from, end);
  }
  uint64_t next_resident(uint64_t from, uint64_t end) const noexcept {
    return resident_.next_inside(from, end);
  }

  // The first page of the run of missing pages that ends with page, not below lowest.
  uint64_t run_begin(uint64_t page, uint64_t lowest) const noexcept {
    while (page > lowest && !resident(page - 1)) --page;
    return page;
  }

 private:
  PageSet resident_;
  std::atomic<uint64_t> missing_;
};

}  // namespace uffd
