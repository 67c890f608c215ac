// The loop of a lazy restore's usual manager: one thread that answers each fault with one page, and
// installs the rest in small chunks while no fault waits (CRIU's criu/uffd.c, whose chunk begins at
// 64 KiB). It reads with pread(2), as that one does.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/linux/range.hpp"

namespace uffd::workload {

struct LazyFloorPlan {
  int fd = -1;                // a userfaultfd with O_NONBLOCK and without event features
  int file = -1;              // with the bytes of all ranges, one after the other
  std::vector<Range> ranges;  // sorted
  uint64_t chunk = 64 << 10;
};

// Until every page is installed; in nanoseconds of CLOCK_MONOTONIC. Then no thread sleeps any more.
uint64_t lazy_floor(const LazyFloorPlan& plan);

}  // namespace uffd::workload
