// What /proc/PID/smaps tells of registered memory. Reads the whole file: milliseconds for thousands
// of VMAs.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/linux/range.hpp"

namespace uffd {

// Whether any VMA that overlaps one of the ranges (sorted by start) still has a userfaultfd flag:
// um (missing), uw (write-protect) or ui (minor). pid 0 is this process. Empty where smaps may not
// be read.
std::optional<bool> any_registered(pid_t pid, std::span<const Range> ranges);

// All VMAs that have such a flag, of whichever userfaultfd, in order.
std::optional<std::vector<Range>> registered_mappings(pid_t pid);

}  // namespace uffd
