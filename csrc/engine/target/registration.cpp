#include "engine/target/registration.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "engine/linux/error.hpp"
#include "engine/linux/maps.hpp"
#include "engine/linux/smaps.hpp"

namespace uffd {
namespace {

std::string refusal(int error, const Region& region) {
  switch (error) {
    case EBUSY:
      return "it, or a part of it, is registered with another userfaultfd: unregister it there, or "
             "close that userfaultfd";
    case EINVAL:
      if (region.minor()) {
        return "it is not mapped, or it has no page cache and therefore no minor faults: map a "
               "memfd, shared anonymous memory or hugetlb memory";
      }
      return "it is not mapped, or this kernel cannot serve it (a mapping of a file; hugetlb "
             "memory whose page_size is not that of its pool)";
    case EPERM:
      return "it cannot be made writable (a shared mapping of a file that was opened for reading): "
             "open the file for writing, too";
    case ENOMEM:
      return "its process has ended, or has as many memory maps as the sysctl vm.max_map_count "
             "permits: raise the sysctl";
    default:
      return errno_text(error);
  }
}

[[noreturn]] void refuse_mode(const Region& region, const std::string& why, Needs needs) {
  throw UnsupportedError(
      EOPNOTSUPP, "region " + range_text(region.range.start, region.range.length) + ": " + why,
      std::move(needs));
}

// hugetlb memory is the one kind that admits no ZEROPAGE.
void check_page_size(const Region& region, uint64_t ioctls) {
  const bool hugetlb = !(ioctls & (uint64_t{1} << _UFFDIO_ZEROPAGE));
  const bool wants_hugetlb = region.page_size != sys::page_size();
  if (hugetlb == wants_hugetlb) return;
  throw std::invalid_argument(
      "region " + range_text(region.range.start, region.range.length) + ": page_size is " +
      std::to_string(region.page_size) +
      (hugetlb ? ", but it is hugetlb memory: give the page size of its pool"
               : ", but its pages have " + std::to_string(sys::page_size()) + " bytes: give that"));
}

void register_region(const Userfaultfd& uffd, const Region& region) {
  uint64_t ioctls = 0;
  const Range& range = region.range;
  const int result = uffd.register_range(range.start, range.length, region.modes, &ioctls);
  if (result < 0) {
    throw SystemError(-result, "cannot register region " + range_text(range.start, range.length) +
                                   ": " + refusal(-result, region));
  }
  try {
    check_page_size(region, ioctls);
  } catch (...) {
    unregister_and_wake(uffd, range);
    throw;
  }
}

bool overlaps_any(const std::vector<Range>& sorted, const Range& range) {
  const auto next = std::partition_point(
      sorted.begin(), sorted.end(), [&](const Range& other) { return other.end() <= range.start; });
  return next != sorted.end() && next->overlaps(range);
}

void decide_on_remove(Region& region) {
  if (region.on_remove != OnRemove::decide) return;
  if (region.shared && !(offered_features() & UFFD_FEATURE_POISON)) {
    refuse_mode(
        region,
        "it is shared memory, so the kernel does not say how the target removes a page, and this "
        "kernel cannot poison the page (Linux 6.6): give on_remove='keep' or 'zero'",
        {"Linux 6.6"});
  }
  region.on_remove = region.shared ? OnRemove::poison : OnRemove::zero;
}

RangeSet beyond(const RegionTable& regions, const std::optional<std::vector<Range>>& registered) {
  RangeSet beyond;
  if (!registered) beyond.add({0, UINT64_MAX});  // nothing is ruled out
  if (registered) {
    for (const Range& mapping : *registered) beyond.add(mapping);
  }
  for (const Region& region : regions.all()) beyond.remove(region.range);
  return beyond;
}

}  // namespace

void check_modes(const Userfaultfd& uffd, const RegionTable& regions) {
  const uint64_t offered = offered_features();
  for (const Region& region : regions.all()) {
    if (region.minor() && !(offered & UFFD_FEATURE_MINOR_SHMEM))
      refuse_mode(region, "this kernel lacks minor faults (Linux 5.14)", {"Linux 5.14"});
    if (!region.write_protected()) continue;
    if (!(offered & UFFD_FEATURE_PAGEFAULT_FLAG_WP))
      refuse_mode(region, "this kernel lacks write-protect faults (Linux 5.7, 64 bits)",
                  {"Linux 5.7"});
    if (uffd.features() & UFFD_FEATURE_WP_ASYNC) {
      refuse_mode(region,
                  "with the feature WP_ASYNC the kernel reports no write-protect fault: open the "
                  "userfaultfd without the feature, or call Userfaultfd.scan_written()",
                  {});
    }
  }
}

void register_regions(const Userfaultfd& uffd, const RegionTable& regions) {
  std::vector<Range> registered;
  registered.reserve(regions.size());
  try {
    for (const Region& region : regions.all()) {
      register_region(uffd, region);
      registered.push_back(region.range);
    }
  } catch (...) {
    for (const Range& range : registered) unregister_and_wake(uffd, range);
    throw;
  }
}

LivingLook look_at_living(const Target& target) {
  LivingLook look;
  look.shared = shared_mappings(target.pid());
  // Where all memory outside the regions is zeros, it does not matter since when it is registered.
  if (target.beyond() == Beyond::zero) {
    look.registered.emplace();
  } else {
    look.registered = registered_mappings(target.pid());
  }
  return look;
}

void apply_look(const LivingLook& look, Target& target) {
  target.regions().for_each([&](Region& region) {
    region.shared = !look.shared || overlaps_any(*look.shared, region.range);
    decide_on_remove(region);
  });
  target.set_registered_beyond(beyond(target.regions(), look.registered));
}

void look_at_child(Target& child, const Target& parent) {
  child.regions().for_each([&](Region& region) {
    const Region* const same = parent.regions().find_page(region.first_page);
    region.shared = !same || same->shared;
    decide_on_remove(region);
  });
  child.set_registered_beyond(parent.registered_beyond());
}

}  // namespace uffd
