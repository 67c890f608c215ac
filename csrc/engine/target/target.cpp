#include "engine/target/target.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace uffd {
namespace {

uint64_t largest_page(const RegionTable& regions) {
  const auto all = regions.all();
  return std::max_element(
             all.begin(), all.end(),
             [](const Region& a, const Region& b) { return a.page_size < b.page_size; })
      ->page_size;
}

}  // namespace

Target::Target(RegionTable regions, pid_t pid)
    : regions_(std::move(regions)),
      residency_(regions_.pages()),
      pid_(pid),
      zeros_(largest_page(regions_), MemoryKind::anonymous, false),
      unreadable_(zeros_.length(), MemoryKind::anonymous, false) {
  or_throw(
      ::mprotect(reinterpret_cast<void*>(unreadable_.address()), unreadable_.length(), PROT_NONE),
      "mprotect");
}

bool Target::address_space_gone() const noexcept {
  const Region& any = regions_.all().front();
  return uffd_.copy(any.range.start, unreadable_.address(), any.page_size, 0).error == -ESRCH;
}

void Target::add_poisoned(Range range) {
  const std::lock_guard lock(poisoned_mutex_);
  auto next = std::partition_point(poisoned_.begin(), poisoned_.end(),
                                   [&](const Range& other) { return other.end() < range.start; });
  while (next != poisoned_.end() && next->start <= range.end()) {
    const uint64_t start = std::min(range.start, next->start);
    range = {start, std::max(range.end(), next->end()) - start};
    next = poisoned_.erase(next);
  }
  poisoned_.insert(next, range);
}

std::vector<Range> Target::poisoned() const {
  const std::lock_guard lock(poisoned_mutex_);
  return poisoned_;
}

namespace {

std::string refusal(int error) {
  switch (error) {
    case EBUSY:
      return "it, or a part of it, is registered with another userfaultfd: unregister or close "
             "that one first";
    case EINVAL:
      return "it is not mapped, or it is memory that this kernel cannot manage (a file's mapping; "
             "hugetlb memory "
             "needs page_size to be that of its pool)";
    case EPERM:
      return "it may not be written (a shared mapping of a file opened for reading)";
    case ENOMEM:
      return "its process has ended, or has as many memory maps as the sysctl vm.max_map_count "
             "allows";
    default:
      return errno_text(error);
  }
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
  const int result =
      uffd.register_range(range.start, range.length, UFFDIO_REGISTER_MODE_MISSING, &ioctls);
  if (result < 0) {
    throw SystemError(-result, "cannot register region " + range_text(range.start, range.length) +
                                   ": " + refusal(-result));
  }
  try {
    check_page_size(region, ioctls);
  } catch (...) {
    unregister_and_wake(uffd, range);
    throw;
  }
}

}  // namespace

void wake_all(const Target& target) noexcept {
  const auto regions = target.regions().all();
  const uint64_t start = regions.front().range.start;
  target.uffd().wake(start, regions.back().range.end() - start);
}

int unregister_and_wake(const Userfaultfd& uffd, const Range& range) noexcept {
  const int result = uffd.unregister(range.start, range.length);
  uffd.wake(range.start, range.length);
  return result;
}

void register_regions(const Userfaultfd& uffd, const RegionTable& regions) {
  const auto all = regions.all();
  for (size_t i = 0; i < all.size(); ++i) {
    try {
      register_region(uffd, all[i]);
    } catch (...) {
      while (i-- > 0) unregister_and_wake(uffd, all[i].range);
      throw;
    }
  }
}

}  // namespace uffd
