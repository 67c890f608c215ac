// The shortest way for a thread to resolve its own faults: UFFDIO_COPY in the handler of the SIGBUS
// that UFFD_FEATURE_SIGBUS turns them into.
//
// One at a time in a process, whose disposition of SIGBUS it takes for so long. A COPY that fails
// ends the process.
#pragma once

#include <cstdint>

namespace uffd::workload {

struct SigbusPlan {
  int fd = -1;  // a userfaultfd with the feature; [start, start + length) is registered and missing
  uint64_t start = 0;
  uint64_t source = 0;  // of the bytes of start
  uint64_t length = 0;
  uint64_t window = 1;  // pages to one COPY: those around the faulting one, aligned to start
  uint64_t page_size = 4096;
};

// native_touch() of the range by this thread, in nanoseconds.
uint64_t sigbus_touch(const SigbusPlan& plan);

}  // namespace uffd::workload
