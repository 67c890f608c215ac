// A fork child inherits no userfaultfd registration: it would read zeros in missing pages. So
// memory of this process is kept from children until it is complete.
#pragma once

#include "engine/linux/syscall.hpp"
#include "engine/target/region_table.hpp"

namespace uffd {

inline void advise_all(const RegionTable& regions, int advice) noexcept {
  for (const Region& region : regions.all())
    sys::madvise(region.range.start, region.range.length, advice);
}

inline void forbid_fork(const RegionTable& regions) noexcept {
  advise_all(regions, MADV_DONTFORK);
}
inline void allow_fork(const RegionTable& regions) noexcept {
  advise_all(regions, MADV_DOFORK);
}

}  // namespace uffd
