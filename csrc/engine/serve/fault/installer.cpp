#include "engine/serve/fault/installer.hpp"

#include <algorithm>

#include "engine/linux/blank.hpp"
#include "engine/serve/fault/verdict.hpp"
#include "engine/source/shared_image.hpp"

namespace uffd {
namespace {

// How often a MOVE of a page that is in use is tried again before it is copied.
constexpr unsigned kPatience = 32;

}  // namespace

Outcome Installer::install(const Region& region, uint64_t first, uint64_t end,
                           const std::byte* fetched) noexcept {
  Outcome worst = Outcome::done;
  for (uint64_t limit = end; first < end;) {
    Progress progress = region.minor() ? map_cached(region, first, limit, region.address_of(first))
                                       : transfer(region, first, limit, fetched);
    // Copies one page only: COPY into private memory does not stop at a page that the page cache
    // has.
    if (region.minor() && region.source && !region.image() && progress.error == -EFAULT &&
        progress.bytes == 0)
      progress = transfer(region, first, first + 1, nullptr);
    uint64_t pages = progress.bytes / region.page_size;
    if (pages > 0) {
      // Done in full or in part: where the call stopped short, the next call says why.
      counters_.add(Count::pages, pages);
      counters_.add(Count::bytes, progress.bytes);
      mark_installed(first, pages);
    } else if (judge(progress.error) == Verdict::absent && limit - first > 1) {
      limit = first + (limit - first) / 2;
      continue;
    } else {
      const Outcome outcome = settle_page(region, first, progress.error);
      if (outcome >= Outcome::again) return outcome;
      worst = std::max(worst, outcome);
      pages = 1;
    }
    first += pages;
    if (fetched) fetched += pages * region.page_size;
    limit = end;
  }
  return worst;
}

Outcome Installer::install_dropped(const Region& region, uint64_t page) noexcept {
  const uint64_t start = region.address_of(page);
  if (target_.is_poisoned(start)) return poison_again({start, region.page_size});
  const Progress progress = transfer_zeros(region, start, region.page_size);
  if (progress.error != 0) return settle_page(region, page, progress.error);
  counters_.add(Count::dropped);
  return Outcome::done;
}

Outcome Installer::poison(const Region& region, uint64_t first, uint64_t end,
                          const Blame& blame) noexcept {
  Outcome worst = Outcome::done;
  const Residency& residency = target_.residency();
  for (first = residency.next_missing(first, end); first < end;) {
    const uint64_t run_end = residency.next_resident(first, end);
    const Outcome outcome = poison_run(region, first, run_end, blame);
    if (outcome >= Outcome::again) return outcome;
    worst = std::max(worst, outcome);
    first = residency.next_missing(run_end, end);
  }
  return worst;
}

Progress Installer::transfer(const Region& region, uint64_t first, uint64_t end,
                             const std::byte* fetched) noexcept {
  const uint64_t start = region.address_of(first);
  const uint64_t length = (end - first) * region.page_size;
  const Supply supply =
      fetched ? Supply{fetched} : region.source->supply(region.offset_of(first), length);
  if (!supply.bytes) return transfer_zeros(region, start, length);
  if (fetched && region.move_unit != 0)
    return move_or_copy(region, start, reinterpret_cast<uint64_t>(fetched), length);
  return copy(region, start, reinterpret_cast<uint64_t>(supply.bytes), length);
}

// Whole huge pages are moved: to move a smaller page, and have the kernel give the staging a new
// one, costs more than to copy it. Where MOVE moves nothing the bytes are copied, so that judge()
// sees errors of COPY only.
Progress Installer::move_or_copy(const Region& region, uint64_t start, uint64_t from,
                                 uint64_t length) noexcept {
  const uint64_t unit = region.move_unit;
  if ((start | from) % unit != 0) {
    const bool together = start % unit == from % unit;
    return copy(region, start, from, together ? std::min(length, unit - start % unit) : length);
  }
  if (length < unit) return copy(region, start, from, length);
  Progress moved = target_.uffd().move(start, from, unit, 0);
  // The device that has just read the page holds it a moment longer.
  for (unsigned left = kPatience; left > 0 && moved.error == -EBUSY && moved.bytes == 0; --left) {
    ::sched_yield();
    moved = target_.uffd().move(start, from, unit, 0);
  }
  if (moved.bytes == 0) return copy(region, start, from, unit);
  counters_.add(Count::moves);
  counters_.add(Count::moved_bytes, moved.bytes);
  return moved;
}

Progress Installer::map_cached(const Region& region, uint64_t first, uint64_t end,
                               uint64_t address) noexcept {
  if (const SharedImage* image = region.image()) {
    const int64_t filled = image->fill(region.offset_of(first), (end - first) * region.page_size);
    if (filled < 0) return {static_cast<int>(filled), 0};
    end = first + static_cast<uint64_t>(filled) / region.page_size;
  }
  counters_.add(Count::continues);
  return target_.uffd().continue_(address, (end - first) * region.page_size, 0);
}

Progress Installer::transfer_zeros(const Region& region, uint64_t start, uint64_t length) noexcept {
  // ZEROPAGE protects nothing, and hugetlb memory does not admit it.
  if (region.page_size != sys::page_size() || region.write_protected())
    return copy(region, start, zeros_address(), std::min(length, kBlankLength));
  counters_.add(Count::zeropages);
  return target_.uffd().zeropage(start, length, 0);
}

Progress Installer::copy(const Region& region, uint64_t start, uint64_t from,
                         uint64_t length) noexcept {
  counters_.add(Count::copies);
  return target_.uffd().copy(start, from, length,
                             region.write_protected() ? UFFDIO_COPY_MODE_WP : 0);
}

Outcome Installer::settle_page(const Region& region, uint64_t page, int error) noexcept {
  const uint64_t start = region.address_of(page);
  switch (judge(error)) {
    case Verdict::present:
      if (region.write_protected() &&
          target_.uffd().writeprotect(start, region.page_size, UFFDIO_WRITEPROTECT_MODE_WP) ==
              -EAGAIN) {
        counters_.add(Count::eagain);
        return Outcome::again;
      }
      counters_.add(Count::eexist);
      if (wake_settled(region, page)) counters_.add(Count::found_present);
      return Outcome::done;
    case Verdict::absent:
      if (!target_.registered()) {
        target_.uffd().wake(start, region.page_size);
        return Outcome::done;
      }
      // The page may have moved, and the event that tells of the move is on its way.
      if (target_.living() && target_.is_changing()) {
        counters_.add(Count::eagain);
        return Outcome::again;
      }
      counters_.add(Count::enoent);
      wake_settled(region, page);
      return Outcome::done;
    case Verdict::again:
      counters_.add(Count::eagain);
      return Outcome::again;
    case Verdict::gone:
      return Outcome::gone;
    case Verdict::refused:
      break;
  }
  if (!region.source && error == -EFAULT) {
    // The page is a hole of the file that the region maps: it reads as zeros, without a minor
    // fault.
    wake_settled(region, page);
    return Outcome::done;
  }
  return poison_run(region, page, page + 1, Cause::unreadable);
}

Outcome Installer::poison_run(const Region& region, uint64_t first, uint64_t end,
                              const Blame& blame) noexcept {
  Outcome worst = Outcome::done;
  while (first < end) {
    const Range range{region.address_of(first), (end - first) * region.page_size};
    const Progress progress = target_.uffd().poison(range.start, range.length, 0);
    uint64_t pages = progress.bytes / region.page_size;
    if (pages > 0) {
      counters_.add(Count::poisoned, pages);
      target_.add_poisoned({range.start, progress.bytes});
      note_failure(region, {range.start, progress.bytes}, blame);
      target_.residency().mark(first, pages);
      journal().write(
          {News::poisoned, target_.id(), pages, {range.start, progress.bytes}, blame.cause});
    } else if (judge(progress.error) == Verdict::refused) {
      counters_.add(Count::failed, end - first);
      journal().write({News::stuck, target_.id(), end - first, range});
      return Outcome::failed;
    } else {
      const Outcome outcome = settle_page(region, first, progress.error);
      if (outcome >= Outcome::again) return outcome;
      worst = std::max(worst, outcome);
      pages = 1;
    }
    first += pages;
  }
  return worst;
}

void Installer::note_failure(const Region& region, const Range& range,
                             const Blame& blame) noexcept {
  if (!is_of_source(blame.cause)) return;
  const uint64_t offset = region.offset_of(region.page_at(range.start));
  target_.source_failures().note({blame, offset, range.start, range.length});
}

// Another thread of ours may have found these pages present between the install and this mark: it
// has marked them, and counted them as found_present. came_second corrects that.
void Installer::mark_installed(uint64_t first, uint64_t pages) noexcept {
  const uint64_t newly = target_.residency().mark(first, pages);
  if (newly < pages) counters_.add(Count::came_second, pages - newly);
}

bool Installer::wake_settled(const Region& region, uint64_t page) noexcept {
  const bool newly = target_.residency().mark(page, 1) > 0;
  target_.uffd().wake(region.address_of(page), region.page_size);
  return newly;
}

}  // namespace uffd
