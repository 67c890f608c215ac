#include "engine/serve/fault/window.hpp"

#include <algorithm>

namespace uffd {
namespace {

// How much is installed with a page while a fill is under way: all pages come anyway, and with
// fewer faults they come sooner; but no fault shall wait longer than for a filler's chunk.
constexpr uint64_t kBytesWhileFilling = 32 * 4096;

constexpr uint64_t kLongestRun = 64;  // pages, of faults that adjoin each other

// The missing pages around page, within the aligned window of so many pages that it lies in.
PageRun aligned(const Residency& residency, const Region& region, uint64_t page,
                uint64_t window) noexcept {
  const uint64_t number = region.address_of(page) / region.page_size;
  const uint64_t before = std::min(number % window, page - region.first_page);
  const uint64_t after = std::min(window - number % window, region.end_page() - page);
  return {residency.run_begin(page, page - before),
          residency.next_resident(page + 1, page + after)};
}

}  // namespace

PageRun Window::around_page(const Residency& residency, const Region& region, uint64_t page,
                            bool filling) noexcept {
  if (pages_) {
    return *pages_ == 1 ? PageRun{page, page + 1} : aligned(residency, region, page, *pages_);
  }
  const PageRun run = streams_.window(residency, region, page);
  if (!filling || region.page_size >= kBytesWhileFilling) return run;
  const PageRun wide = aligned(residency, region, page, kBytesWhileFilling / region.page_size);
  return {std::min(run.first, wide.first), std::max(run.end, wide.end)};
}

Window::Run Window::around(const Residency& residency, const Region& region,
                           std::span<const FaultKey> keys, bool filling) noexcept {
  PageRun run = around_page(residency, region, region.page_at(keys[0].address()), filling);
  size_t covered = 1;
  for (; covered < keys.size() && keys[covered].address() < region.range.end(); ++covered) {
    const uint64_t page = region.page_at(keys[covered].address());
    if (!keys[covered].is_like(keys[0])) break;
    if (page < run.end) continue;
    if (page > run.end || run.end - run.first >= kLongestRun || residency.resident(page)) break;
    run.end = around_page(residency, region, page, filling).end;
  }
  return {run, covered};
}

}  // namespace uffd
