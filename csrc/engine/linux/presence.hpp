// Which pages of a range are present: mapped, swapped out, or, in this process, in the page cache
// under a mapping of a file.
#pragma once

#include <sys/types.h>

#include <optional>
#include <vector>

#include "engine/linux/range.hpp"

namespace uffd {

// In whole pages of this size. pid 0 is this process. Empty where the process's pagemap may not be
// read (ptrace permission). Pages in the page cache of another process's mapping do not show.
std::optional<std::vector<Range>> present_pages(pid_t pid, const Range& range, uint64_t page_size);

}  // namespace uffd
