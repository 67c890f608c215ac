// A set of pages of a target: one bit for each.
//
// Any thread adds and asks, without a lock. A thread that finds a page in the set sees what was
// done before the page was added.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

namespace uffd {

class PageSet {
 public:
  explicit PageSet(uint64_t pages);
  // In words that somebody else owns, as many as hold the pages.
  PageSet(uint64_t pages, std::atomic<uint64_t>* words) noexcept : pages_(pages), words_(words) {}
  PageSet(const PageSet& other);  // in words of its own; while nobody adds to other
  PageSet& operator=(const PageSet&) = delete;

  uint64_t pages() const noexcept { return pages_; }
  bool contains(uint64_t page) const noexcept {
    return (words_[page / 64].load(std::memory_order_acquire) >> (page % 64)) & 1;
  }

  // Returns how many of the pages were not in the set.
  uint64_t add(uint64_t first, uint64_t count) noexcept;

  void remove(uint64_t first, uint64_t count) noexcept;

  // Makes this set equal to other, which has the same number of bits, and returns how many pages
  // are in it; while nobody adds to either. Writes only words that differ.
  uint64_t assign(const PageSet& other) noexcept;

  // How many pages are in the set; while nobody adds.
  uint64_t count() const noexcept;

  // The first page in [from, end) that is not in the set, or that is; end where there is none.
  uint64_t next_outside(uint64_t from, uint64_t end) const noexcept {
    return next(from, end, ~uint64_t{0});
  }
  uint64_t next_inside(uint64_t from, uint64_t end) const noexcept { return next(from, end, 0); }

 private:
  template <typename Change>
  void change(uint64_t first, uint64_t count, Change change_word) noexcept;
  // The first page whose bit is set in word ^ inverted.
  uint64_t next(uint64_t from, uint64_t end, uint64_t inverted) const noexcept;

  uint64_t pages_;
  std::unique_ptr<std::atomic<uint64_t>[]> owned_;
  std::atomic<uint64_t>* words_;
};

}  // namespace uffd
