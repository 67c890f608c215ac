#include "engine/serve/manager/found_pages.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "engine/linux/blank.hpp"
#include "engine/linux/mapping.hpp"
#include "engine/linux/presence.hpp"

namespace uffd {
namespace {

// The mappings made by pyuffd (Mapping) that these regions cover from end to end.
std::vector<Range> whole_mappings(const RegionTable& regions) {
  std::vector<Range> whole;
  for (const Range& mapping : all_mappings()) {
    uint64_t covered = 0;
    regions.for_each_in(mapping, [&](const Region& region, PageRun) {
      covered += region.range.intersection(mapping).length;
    });
    if (covered == mapping.length) whole.push_back(mapping);
  }
  return whole;
}

bool is_blank(const Range& page) noexcept {
  return std::memcmp(reinterpret_cast<const void*>(page.start),
                     reinterpret_cast<const void*>(zeros_address()), page.length) == 0;
}

bool take_away(const Range& pages, uint64_t page_size) noexcept {
  const bool unmapped = sys::madvise(pages.start, pages.length, MADV_DONTNEED) == 0;
  // The pages of a shared mapping are still in the page cache.
  const auto left = present_pages(0, pages, page_size);
  if (unmapped && left && left->empty()) return true;
  return sys::madvise(pages.start, pages.length, MADV_REMOVE) == 0;
}

// Locked memory keeps its pages: so it is unlocked, and afterwards locked again on fault.
bool drop(const Range& pages, uint64_t page_size) noexcept {
  if (take_away(pages, page_size)) return true;
  void* const start = reinterpret_cast<void*>(pages.start);
  if (::munlock(start, pages.length) != 0) return false;
  const bool done = take_away(pages, page_size);
  ::mlock2(start, pages.length, MLOCK_ONFAULT);
  return done;
}

std::vector<Range> found(pid_t pid, const Region& region) {
  auto present = present_pages(pid, region.range, region.page_size);
  if (present) return std::move(*present);
  throw UnsupportedError(EPERM,
                         "present='refuse' reads the target's pagemap, which needs ptrace "
                         "permission over the target (the same user, or CAP_SYS_PTRACE): "
                         "leave present out",
                         {"CAP_SYS_PTRACE"});
}

std::vector<Range> blank_runs(const std::vector<Range>& pages, uint64_t page_size) {
  std::vector<Range> blank;
  for (const Range& run : pages) {
    for (uint64_t page = run.start; page < run.end(); page += page_size) {
      if (!is_blank({page, page_size})) continue;
      if (!blank.empty() && blank.back().end() == page) {
        blank.back().length += page_size;
      } else {
        blank.push_back({page, page_size});
      }
    }
  }
  return blank;
}

void drop_blank_pages(const Region& region, const std::vector<Range>& pages) {
  for (const Range& run : blank_runs(pages, region.page_size)) {
    if (drop(run, region.page_size)) continue;
    throw std::invalid_argument(
        "region " + range_text(region.range.start, region.range.length) + ": " +
        std::to_string(run.length / region.page_size) +
        " pages of zeros that the kernel has put there (mlockall, huge pages) cannot be dropped: "
        "serve the memory before mlockall(MCL_FUTURE)");
  }
}

[[noreturn]] void refuse(const Region& region, uint64_t bytes) {
  const uint64_t pages = bytes / region.page_size;
  throw std::invalid_argument("region " + range_text(region.range.start, region.range.length) +
                              " has " + std::to_string(pages) + (pages == 1 ? " page" : " pages") +
                              " present already, without the bytes of its source: drop them "
                              "(MADV_DONTNEED), or give present='keep'");
}

uint64_t length_of(const std::vector<Range>& ranges) noexcept {
  uint64_t bytes = 0;
  for (const Range& range : ranges) bytes += range.length;
  return bytes;
}

void keep(ServedTarget& served, const Region& region, const std::vector<Range>& pages) {
  Counters counted;
  for (const Range& run : pages) {
    const uint64_t count = run.length / region.page_size;
    counted.add(Count::found_present,
                served.target.residency().mark(region.page_at(run.start), count));
  }
  served.shared_counters.add(counted);
}

}  // namespace

void empty_whole_mappings(const RegionTable& regions) {
  for (const Range& mapping : whole_mappings(regions)) {
    regions.for_each_in(mapping, [](const Region& region, PageRun) {
      // Minor faults tell of pages that are in the page cache.
      if (!region.minor()) drop_blank_pages(region, found(0, region));
    });
  }
}

void settle_found_pages(ServedTarget& served, Present present) {
  const bool this_process = served.target.is_this_process();
  const RegionTable& regions = served.target.regions();
  const auto whole = this_process ? whole_mappings(regions) : std::vector<Range>{};
  for (const Region& region : regions.all()) {
    if (region.minor()) continue;
    const bool is_ours = std::any_of(whole.begin(), whole.end(), [&](const Range& mapping) {
      return mapping.overlaps(region.range);
    });
    if (!is_ours && present == Present::keep) continue;
    const std::vector<Range> pages = found(this_process ? 0 : served.target.pid(), region);
    if (pages.empty()) continue;
    if (present == Present::refuse) refuse(region, length_of(pages));
    keep(served, region, pages);
  }
}

void note_present_pages(ServedTarget& served) {
  if (served.target.pid() <= 0) return;
  for (const Region& region : served.target.regions().all()) {
    if (region.minor()) continue;
    if (const auto pages = present_pages(served.target.pid(), region.range, region.page_size))
      keep(served, region, *pages);
  }
}

}  // namespace uffd
