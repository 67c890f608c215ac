// One registered range of a target: its page size, its source and the offset in that source, and
// which faults its handler is told of.
#pragma once

#include <memory>

#include "engine/guard/ledger.hpp"
#include "engine/linux/range.hpp"
#include "engine/linux/uapi.hpp"
#include "engine/source/source.hpp"

namespace uffd {

// What becomes of the missing pages of a range that a REMOVE event names.
enum class OnRemove {
  decide,  // zero for private memory; poison for shared memory, of which the event does not tell
           // MADV_DONTNEED (the bytes stay) from MADV_REMOVE (they are zeros)
  keep,    // they are still to come from the source
  zero,    // they read as zeros
  poison,  // touching them gives SIGBUS
};

struct Region {
  // modes are UFFDIO_REGISTER_MODE_x bits; a source of nullptr, for minor faults alone, means that
  // the bytes are those of the page cache. Throws std::invalid_argument that names the wrong value:
  // misaligned, empty, a page size that no memory here has, or a source that is lacking or too
  // short.
  Region(Range range, SourcePtr source, uint64_t source_offset, uint64_t page_size,
         uint64_t modes = UFFDIO_REGISTER_MODE_MISSING, OnRemove on_remove = OnRemove::decide);

  uint64_t pages() const noexcept { return range.length / page_size; }
  uint64_t page_at(uint64_t address) const noexcept {
    return first_page + (address - range.start) / page_size;
  }
  uint64_t address_of(uint64_t page) const noexcept {
    return range.start + (page - first_page) * page_size;
  }
  uint64_t offset_of(uint64_t page) const noexcept {
    return source_offset + (page - first_page) * page_size;
  }
  uint64_t end_page() const noexcept { return first_page + pages(); }

  bool minor() const noexcept { return (modes & UFFDIO_REGISTER_MODE_MINOR) != 0; }
  bool write_protected() const noexcept { return (modes & UFFDIO_REGISTER_MODE_WP) != 0; }
  bool late() const noexcept { return source && source->late(); }
  // Whether the bytes of these pages must be waited for.
  bool late(uint64_t first, uint64_t end) const noexcept;
  const SharedImage* image() const noexcept { return source ? source->image() : nullptr; }

  Range range;
  SourcePtr source;
  uint64_t source_offset;
  uint64_t page_size;
  uint64_t modes;
  OnRemove on_remove;
  uint64_t move_unit = 0;  // the huge page size where huge pages are moved in; 0: all is copied
  bool shared = true;      // false where its mapping is known to be private; set for living targets
  uint64_t first_page = 0;  // the first page's number in the target: set by the region table
  std::shared_ptr<const void> memory = nullptr;  // what keeps it mapped, if anything does
  // Of the region table.
  uint32_t source_number = 0;  // among the sources of the target, in the order of its regions
  Ledger::Slot slot = Ledger::kNone;  // where the ledger notes its place
};

}  // namespace uffd
