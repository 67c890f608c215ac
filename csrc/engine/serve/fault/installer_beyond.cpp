// The installer's work at places that have no page number: memory outside all regions, aliases,
// ranges that are poisoned again, and write-protections.
#include <algorithm>

#include "engine/linux/blank.hpp"
#include "engine/serve/fault/installer.hpp"
#include "engine/serve/fault/verdict.hpp"

namespace uffd {

Outcome Installer::poison_again(const Range& range) noexcept {
  for (uint64_t start = range.start; start < range.end();) {
    const Progress progress = target_.uffd().poison(start, range.end() - start, 0);
    start += progress.bytes;
    if (progress.bytes > 0) continue;
    const Region* region = target_.regions().find(start);
    const uint64_t page_size = region ? region->page_size : sys::page_size();
    const Outcome outcome = settle_place({start, page_size}, progress.error);
    if (outcome != Outcome::done) return outcome;
    start += page_size;
  }
  return Outcome::done;
}

Outcome Installer::poison_dropped(uint64_t first, uint64_t end, const Blame& blame) noexcept {
  Outcome worst = Outcome::done;
  for (uint64_t page = first; page < end; ++page) {
    const Region* const region = target_.regions().find_page(page);
    if (!region || !region->image() || !region->late(page, page + 1)) continue;
    const Range range{region->address_of(page), region->page_size};
    if (target_.is_poisoned(range.start)) continue;
    const Outcome outcome = install_at(range, blame.cause);
    if (outcome >= Outcome::again) return outcome;
    note_failure(*region, range, blame);
    worst = std::max(worst, outcome);
  }
  return worst;
}

Outcome Installer::unprotect(const Range& range) noexcept {
  const int error = target_.uffd().writeprotect(range.start, range.length, 0);
  return error == 0 ? Outcome::done : settle_place(range, error);
}

// The fault does not tell the page size: the kernel says EINVAL where a size does not fit the
// memory.
Outcome Installer::install_stray(uint64_t address) noexcept {
  bool zeros = target_.is_blank(address);
  if (zeros && target_.must_have_grown(address)) {
    const int error = target_.is_one_mapping_with_neighbour(address);
    zeros = error == -EFAULT;
    if (const Verdict verdict = judge(error); verdict == Verdict::again || verdict == Verdict::gone)
      return settle_place({address, sys::page_size()}, error);
  }
  Range page{};
  Progress progress;
  for (uint64_t sizes = target_.page_sizes(); sizes != 0; sizes &= sizes - 1) {
    const uint64_t size = sizes & -sizes;
    page = {address & ~(size - 1), size};
    progress = put(page, zeros);
    if (progress.error != -EINVAL) break;
  }
  return conclude(page, zeros ? std::nullopt : std::optional(Cause::outside), progress);
}

Outcome Installer::install_alias(uint64_t address, uint64_t page, bool is_minor) noexcept {
  const Region* region = target_.regions().find_page(page);
  const uint64_t size = region ? region->page_size : sys::page_size();
  const Range there{address & ~(size - 1), size};
  if (!region) return install_at(there, Cause::outside);
  if (target_.is_poisoned(region->address_of(page))) return install_at(there, Cause::alias);
  if (is_minor) {
    const Progress progress = map_cached(*region, page, page + 1, there.start);
    return progress.error == 0 ? Outcome::done : settle_place(there, progress.error);
  }
  if (target_.residency().resident(page)) return install_at(there, std::nullopt);  // it was removed
  const Outcome outcome = install(*region, page, page + 1);
  if (outcome == Outcome::done) target_.uffd().wake(there.start, there.length);
  return outcome;
}

Outcome Installer::install_at(const Range& page, std::optional<Cause> poison) noexcept {
  return conclude(page, poison, put(page, !poison));
}

// Installs zeros, or poison. Hugetlb memory does not admit ZEROPAGE.
Progress Installer::put(const Range& page, bool zeros) noexcept {
  if (!zeros) return target_.uffd().poison(page.start, page.length, 0);
  if (page.length == sys::page_size()) return target_.uffd().zeropage(page.start, page.length, 0);
  return target_.uffd().copy(page.start, zeros_address(), page.length, 0);
}

Outcome Installer::conclude(const Range& page, std::optional<Cause> poison,
                            const Progress& progress) noexcept {
  if (progress.error != 0) return settle_place(page, progress.error);
  counters_.add(poison ? Count::poisoned : Count::blank);
  if (poison) {
    target_.add_poisoned(page);
    journal().write({News::poisoned, target_.id(), 1, page, *poison});
  }
  return Outcome::done;
}

Outcome Installer::settle_place(const Range& page, int error) noexcept {
  switch (judge(error)) {
    case Verdict::present:
    case Verdict::absent:
      target_.uffd().wake(page.start, page.length);
      return Outcome::done;
    case Verdict::again:
      counters_.add(Count::eagain);
      return Outcome::again;
    case Verdict::gone:
      return Outcome::gone;
    case Verdict::refused:
      break;
  }
  counters_.add(Count::failed);
  journal().write({News::stuck, target_.id(), 1, page});
  return Outcome::failed;
}

}  // namespace uffd
