#include "engine/serve/installer.hpp"

#include <algorithm>

namespace uffd {
namespace {

// The policy: what an errno of COPY, ZEROPAGE or POISON, with nothing done, says about the page it
// stopped at.
enum class Verdict {
  present,  // installed by another; the kernel woke nobody for it
  absent,   // not in one registered VMA: unmapped or let go by the target, or the run lies in
            // several VMAs
  again,    // mmap_changing is raised, or memory is short
  gone,     // the address space is no more
  refused,  // the source is unreadable there, or the kernel cannot do it
};

Verdict judge(int error) noexcept {
  switch (-error) {
    case EEXIST:
      return Verdict::present;
    case ENOENT:
      return Verdict::absent;
    case EAGAIN:
    case ENOMEM:
    case EINTR:
      return Verdict::again;
    case ESRCH:
      return Verdict::gone;
    default:
      return Verdict::refused;
  }
}

}  // namespace

Outcome Installer::install(const Region& region, uint64_t first, uint64_t end) noexcept {
  Outcome worst = Outcome::done;
  uint64_t limit = end;
  while (first < end) {
    const Progress progress = transfer(region, first, limit);
    if (const uint64_t pages = progress.bytes / region.page_size; pages > 0) {
      // In full or in part: where it stopped short, the next call says why.
      counters_.add(Count::pages, pages);
      counters_.add(Count::bytes, progress.bytes);
      target_.residency().mark(first, pages);
      first += pages;
      limit = end;
      continue;
    }
    if (judge(progress.error) == Verdict::absent && limit - first > 1) {
      limit = first + (limit - first) / 2;
      continue;
    }
    const Outcome outcome = settle_page(region, first, progress.error);
    if (outcome >= Outcome::again) return outcome;
    worst = std::max(worst, outcome);
    ++first;
    limit = end;
  }
  return worst;
}

Outcome Installer::install_dropped(const Region& region, uint64_t page) noexcept {
  const Progress progress = transfer_zeros(region, region.address_of(page), region.page_size);
  if (progress.error != 0) return settle_page(region, page, progress.error);
  counters_.add(Count::dropped);
  return Outcome::done;
}

Outcome Installer::poison(const Region& region, uint64_t first, uint64_t end) noexcept {
  Outcome worst = Outcome::done;
  for (uint64_t page = target_.residency().next_missing(first, end); page < end;
       page = target_.residency().next_missing(page + 1, end)) {
    const Outcome outcome = poison_page(region, page);
    if (outcome >= Outcome::again) return outcome;
    worst = std::max(worst, outcome);
  }
  return worst;
}

Outcome Installer::poison_stray(uint64_t address) noexcept {
  const uint64_t start = address & ~(sys::page_size() - 1);
  const Progress progress = target_.uffd().poison(start, sys::page_size(), 0);
  if (progress.error == 0) {
    counters_.add(Count::poisoned);
    target_.add_poisoned({start, sys::page_size()});
    return Outcome::done;
  }
  switch (judge(progress.error)) {
    case Verdict::present:
    case Verdict::absent:
      target_.uffd().wake(start, sys::page_size());
      return Outcome::done;
    case Verdict::again:
      return Outcome::again;
    case Verdict::gone:
      return Outcome::gone;
    case Verdict::refused:
      break;
  }
  counters_.add(Count::failed);
  return Outcome::failed;
}

Progress Installer::transfer(const Region& region, uint64_t first, uint64_t end) noexcept {
  const uint64_t start = region.address_of(first);
  const uint64_t length = (end - first) * region.page_size;
  const Supply supply =
      region.source->supply(region.source_offset + start - region.range.start, length);
  if (!supply.bytes) return transfer_zeros(region, start, length);
  counters_.add(Count::copies);
  return target_.uffd().copy(start, reinterpret_cast<uint64_t>(supply.bytes), length, 0);
}

Progress Installer::transfer_zeros(const Region& region, uint64_t start, uint64_t length) noexcept {
  if (region.page_size == sys::page_size()) {
    counters_.add(Count::zeropages);
    return target_.uffd().zeropage(start, length, 0);
  }
  // hugetlb memory admits no ZEROPAGE. One page at a time: the zeros are one page long.
  counters_.add(Count::copies);
  return target_.uffd().copy(start, target_.zeros(), region.page_size, 0);
}

Outcome Installer::settle_page(const Region& region, uint64_t page, int error) noexcept {
  switch (judge(error)) {
    case Verdict::present:
      counters_.add(Count::eexist);
      wake_settled(region, page);
      return Outcome::done;
    case Verdict::absent:
      counters_.add(Count::enoent);
      wake_settled(region, page);
      return Outcome::done;
    case Verdict::again:
      counters_.add(Count::eagain);
      return Outcome::again;
    case Verdict::gone:
      return Outcome::gone;
    case Verdict::refused:
      return poison_page(region, page);
  }
  return Outcome::failed;
}

Outcome Installer::poison_page(const Region& region, uint64_t page) noexcept {
  const uint64_t start = region.address_of(page);
  const Progress progress = target_.uffd().poison(start, region.page_size, 0);
  if (progress.error == 0) {
    counters_.add(Count::poisoned);
    target_.add_poisoned({start, region.page_size});
    target_.residency().mark(page, 1);
    return Outcome::done;
  }
  if (judge(progress.error) == Verdict::refused) {
    counters_.add(Count::failed);
    return Outcome::failed;
  }
  return settle_page(region, page, progress.error);
}

void Installer::wake_settled(const Region& region, uint64_t page) noexcept {
  target_.residency().mark(page, 1);
  target_.uffd().wake(region.address_of(page), region.page_size);
}

}  // namespace uffd
