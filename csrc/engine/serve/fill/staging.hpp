// Where the bytes of late sources stand before they are installed: huge pages that MOVE can give to
// a target whole, and which are mapped anew for the next use.
//
// A fetcher's own. Fork children do not get this memory: a page that a child shares cannot be
// moved.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "engine/linux/mapping.hpp"

namespace uffd {

class Staging {
 public:
  // The largest huge page that is staged: huge pages are larger where base pages have 64 KiB.
  static constexpr uint64_t kMostUnit = 32 * 1024 * 1024;

  Staging();

  // Room for so many bytes that shall be installed at this address: as far from the beginning of a
  // huge page as that address is, and aligned for O_DIRECT. Valid until the next call. Throws
  // SystemError, or std::bad_alloc, where there is no memory for it now.
  std::span<std::byte> room(uint64_t address, uint64_t length);

 private:
  void map_fresh();

  uint64_t unit_;      // a huge page
  Mapping mapping_;    // of three units, so that two are aligned; empty before the first use
  uint64_t last_ = 0;  // the last room's address
  std::vector<std::byte> overflow_;
};

}  // namespace uffd
