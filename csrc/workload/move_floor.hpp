// The shortest loop that restores a file by huge pages: pread(2) into fresh huge pages,
// UFFDIO_MOVE.
#pragma once

#include <cstdint>

namespace uffd::workload {

struct MovePlan {
  int file = -1;  // read from its beginning; with O_DIRECT or without
  int fd = -1;    // a userfaultfd; [start, start + length) is registered, missing, and of whole
  uint64_t start = 0;  // huge pages of private anonymous memory
  uint64_t length = 0;
};

// Nanoseconds. Throws SystemError.
uint64_t read_and_move(const MovePlan& plan);

}  // namespace uffd::workload
