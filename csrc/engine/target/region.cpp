#include "engine/target/region.hpp"

#include <bit>
#include <stdexcept>
#include <string>

#include "engine/linux/error.hpp"
#include "engine/linux/syscall.hpp"
#include "engine/source/shared_image.hpp"

namespace uffd {
namespace {

[[noreturn]] void refuse(const Range& range, const std::string& why) {
  throw std::invalid_argument("region " + range_text(range.start, range.length) + ": " + why);
}

}  // namespace

Region::Region(Range where, SourcePtr from, uint64_t offset, uint64_t size_of_page, uint64_t faults,
               OnRemove removal)
    : range(where),
      source(std::move(from)),
      source_offset(offset),
      page_size(size_of_page),
      modes(faults),
      on_remove(removal) {
  if (!std::has_single_bit(page_size) || page_size < sys::page_size()) {
    refuse(range, "page_size is " + std::to_string(page_size) +
                      "; it must be this system's page size " + std::to_string(sys::page_size()) +
                      " or that of hugetlb memory");
  }
  if (range.length == 0) refuse(range, "its length is 0; it must be at least one page");
  if (range.start % page_size != 0 || range.length % page_size != 0) {
    refuse(range, "start and length must be multiples of page_size " + std::to_string(page_size));
  }
  if (range.length > UINT64_MAX - range.start)
    refuse(range, "it wraps around the end of the address space");
  if (!source) {
    if (modes == UFFDIO_REGISTER_MODE_MINOR) return;
    refuse(range,
           "it has no source: give one, or mode='minor' if all its pages are in the page cache");
  }
  if (source_offset > source->length() || range.length > source->length() - source_offset) {
    refuse(range, "its source has " + std::to_string(source->length()) + " bytes; from offset " +
                      std::to_string(source_offset) +
                      " on the source is shorter than the region, which has " +
                      std::to_string(range.length) + " bytes");
  }
}

bool Region::late(uint64_t first, uint64_t end) const noexcept {
  if (!late()) return false;
  return !image() || !image()->has(offset_of(first), (end - first) * page_size);
}

}  // namespace uffd
