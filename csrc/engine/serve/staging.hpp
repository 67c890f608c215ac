// Where the bytes of late sources stand before they are installed: huge pages that MOVE can give to
// a target whole, and which are fresh again at the next use.
//
// A fetcher's own. Fork children do not have it: a page that one shares cannot be moved.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "engine/linux/mapping.hpp"

namespace uffd {

class Staging {
 public:
  Staging();

  // Room for so many bytes that shall be installed at this address: as far from the beginning of a
  // huge page as that is, and aligned for O_DIRECT. Valid until the next call. Throws SystemError,
  // or std::bad_alloc, where there is no memory for it now.
  std::span<std::byte> room(uint64_t address, uint64_t length);

 private:
  void map_fresh();

  uint64_t unit_;      // a huge page
  Mapping mapping_;    // of three of them, so that two are aligned; none before the first use
  uint64_t last_ = 0;  // the last room's address
  std::vector<std::byte> overflow_;
};

}  // namespace uffd
