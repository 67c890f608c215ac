// What /proc/PID/maps tells of memory. Reads the whole file: milliseconds for thousands of VMAs.
#pragma once

#include <sys/types.h>

#include <optional>
#include <vector>

#include "engine/linux/range.hpp"

namespace uffd {

// The shared mappings, in order. pid 0 is this process. Empty where maps may not be read.
std::optional<std::vector<Range>> shared_mappings(pid_t pid);

}  // namespace uffd
