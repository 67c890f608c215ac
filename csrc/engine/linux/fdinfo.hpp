// What /proc/self/fdinfo tells of a userfaultfd.
#pragma once

#include <cstdint>
#include <optional>

namespace uffd {

struct FdInfo {
  uint64_t pending = 0;   // faults queued and not yet read
  uint64_t total = 0;     // faults queued, read or not, whose threads still sleep
  uint64_t features = 0;  // of the context, kFeatureInitialized included
};

// Empty where the descriptor is not a userfaultfd, or /proc is not mounted.
std::optional<FdInfo> read_fdinfo(int fd);

}  // namespace uffd
