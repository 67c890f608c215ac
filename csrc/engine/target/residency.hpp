// Which pages of a target are resident: one bit a page, and the exact number of those that are
// missing.
//
// Any thread marks and asks, without a lock. A page is marked after it was installed, so "missing"
// may be a moment old (the install then says EEXIST), but "resident" is always true, unless the
// target itself dropped the page since.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

namespace uffd {

class Residency {
 public:
  explicit Residency(uint64_t pages);

  uint64_t pages() const noexcept { return pages_; }
  uint64_t missing() const noexcept { return missing_.load(std::memory_order_acquire); }
  bool resident(uint64_t page) const noexcept {
    return (words_[page / 64].load(std::memory_order_relaxed) >> (page % 64)) & 1;
  }

  void mark(uint64_t first, uint64_t count) noexcept;

  // The first page in [from, end) that is missing, or that is resident; end where there is none.
  uint64_t next_missing(uint64_t from, uint64_t end) const noexcept {
    return next(from, end, ~uint64_t{0});
  }
  uint64_t next_resident(uint64_t from, uint64_t end) const noexcept { return next(from, end, 0); }

  // The first page of the run of missing pages that ends with page, not below lowest.
  uint64_t run_begin(uint64_t page, uint64_t lowest) const noexcept {
    while (page > lowest && !resident(page - 1)) --page;
    return page;
  }

 private:
  // The first page whose bit differs from those of inverted: word ^ inverted has it set.
  uint64_t next(uint64_t from, uint64_t end, uint64_t inverted) const noexcept;

  uint64_t pages_;
  std::unique_ptr<std::atomic<uint64_t>[]> words_;
  std::atomic<uint64_t> missing_;
};

}  // namespace uffd
