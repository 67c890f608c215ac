// PAGEMAP_SCAN (Linux 6.7): which pages were written to, of memory registered for write-protect
// faults by a userfaultfd with the feature WP_ASYNC, where the kernel resolves these by itself.
#pragma once

#include <sys/types.h>

#include <vector>

#include "engine/linux/range.hpp"

namespace uffd {

// With protect, what is found is write-protected again in the same step. pid 0 is this process.
// Throws SystemError: EPERM where the memory is not registered so, ENOTTY on older kernels.
std::vector<Range> scan_written(pid_t pid, const Range& range, bool protect);

}  // namespace uffd
