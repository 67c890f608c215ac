#include "engine/linux/page_set.hpp"

#include <algorithm>
#include <bit>

namespace uffd {
namespace {

uint64_t words_for(uint64_t pages) {
  return (pages + 63) / 64;
}

}  // namespace

PageSet::PageSet(uint64_t pages)
    : pages_(pages),
      owned_(std::make_unique<std::atomic<uint64_t>[]>(words_for(pages))),
      words_(owned_.get()) {}

PageSet::PageSet(const PageSet& other) : PageSet(other.pages_) {
  for (uint64_t i = 0; i < words_for(pages_); ++i)
    words_[i].store(other.words_[i].load(std::memory_order_relaxed), std::memory_order_relaxed);
}

// Calls change_word(word, mask) for each word that has some of the pages.
template <typename Change>
void PageSet::change(uint64_t first, uint64_t count, Change change_word) noexcept {
  for (const uint64_t end = first + count; first < end;) {
    const uint64_t bit = first % 64;
    const uint64_t bits = std::min(64 - bit, end - first);
    change_word(words_[first / 64], (~uint64_t{0} >> (64 - bits)) << bit);
    first += bits;
  }
}

uint64_t PageSet::add(uint64_t first, uint64_t count) noexcept {
  uint64_t newly = 0;
  change(first, count, [&](std::atomic<uint64_t>& word, uint64_t mask) {
    const uint64_t before = word.fetch_or(mask, std::memory_order_acq_rel);
    newly += static_cast<uint64_t>(std::popcount(mask & ~before));
  });
  return newly;
}

void PageSet::remove(uint64_t first, uint64_t count) noexcept {
  change(first, count, [](std::atomic<uint64_t>& word, uint64_t mask) {
    word.fetch_and(~mask, std::memory_order_acq_rel);
  });
}

uint64_t PageSet::assign(const PageSet& other) noexcept {
  uint64_t count = 0;
  for (uint64_t i = 0; i < words_for(pages_); ++i) {
    const uint64_t word = other.words_[i].load(std::memory_order_relaxed);
    if (words_[i].load(std::memory_order_relaxed) != word)
      words_[i].store(word, std::memory_order_relaxed);
    count += static_cast<uint64_t>(std::popcount(word));
  }
  return count;
}

uint64_t PageSet::count() const noexcept {
  uint64_t count = 0;
  for (uint64_t i = 0; i < words_for(pages_); ++i) {
    uint64_t word = words_[i].load(std::memory_order_relaxed);
    // Nothing is believed behind the last page.
    if (i + 1 == words_for(pages_) && pages_ % 64 != 0) word &= (uint64_t{1} << pages_ % 64) - 1;
    count += static_cast<uint64_t>(std::popcount(word));
  }
  return count;
}

uint64_t PageSet::next(uint64_t from, uint64_t end, uint64_t inverted) const noexcept {
  while (from < end) {
    const uint64_t word = words_[from / 64].load(std::memory_order_acquire) ^ inverted;
    const uint64_t rest = word >> (from % 64);
    if (rest) return std::min(from + static_cast<uint64_t>(std::countr_zero(rest)), end);
    from = (from / 64 + 1) * 64;
  }
  return end;
}

}  // namespace uffd
