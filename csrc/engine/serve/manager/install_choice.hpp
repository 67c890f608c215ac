// Into which regions the bytes that a late source has produced are moved, and not copied.
#pragma once

#include "engine/linux/userfaultfd.hpp"
#include "engine/target/region_table.hpp"

namespace uffd {

// How bytes that a late source has produced get into memory.
enum class Install {
  automatic,  // moved where that is possible, else copied
  copy,
  move,
};

// Sets Region::move_unit of all regions, which are registered already, and asks the kernel for each
// region, by a MOVE that moves nothing. Under Install::move throws std::invalid_argument or
// UnsupportedError that names the region into which nothing can be moved, and why.
void choose_moves(const Userfaultfd& uffd, RegionTable& regions, bool this_process,
                  Install install);

}  // namespace uffd
