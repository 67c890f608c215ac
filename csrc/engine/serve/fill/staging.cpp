#include "engine/serve/fill/staging.hpp"

#include <algorithm>

#include "engine/linux/huge_pages.hpp"
#include "engine/linux/syscall.hpp"

namespace uffd {
namespace {

constexpr uint64_t kUnitWithoutHugePages = 2 * 1024 * 1024;

}  // namespace

Staging::Staging()
    : unit_(std::min(huge_page_size() ? huge_page_size() : kUnitWithoutHugePages, kMostUnit)) {}

void Staging::map_fresh() {
  mapping_ = Mapping(3 * unit_, MemoryKind::anonymous, false);
  sys::madvise(mapping_.address(), mapping_.length(), MADV_HUGEPAGE);
  sys::madvise(mapping_.address(), mapping_.length(), MADV_DONTFORK);
}

std::span<std::byte> Staging::room(uint64_t address, uint64_t length) {
  if (length > unit_) {
    overflow_.resize(length);
    return overflow_;
  }
  // A MOVE leaves page tables behind where it moved single pages: no huge page is made there again.
  if (last_ == 0 || !sys::resident(last_)) map_fresh();
  const uint64_t aligned = (mapping_.address() + unit_ - 1) / unit_ * unit_;
  last_ = aligned + address % unit_;
  return {reinterpret_cast<std::byte*>(last_), length};
}

}  // namespace uffd
