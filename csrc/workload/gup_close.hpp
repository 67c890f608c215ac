// An early close against a user of GUP: a system call that faults pages in on behalf of a thread,
// and holds mmap_lock while it does.
#pragma once

#include <cstdint>

namespace uffd::workload {

enum class GupUser {
  populate,          // madvise(MADV_POPULATE_WRITE)
  mlock,             // mlock(2)
  process_vm_readv,  // process_vm_readv(2) of this process
};

struct GupClose {
  int error = 0;  // what the system call failed with, or 0
  uint64_t call_ns = 0;
  uint64_t close_ns = 0;
};

// The system call goes over one mapping, whose first fresh_bytes are nobody's and whose last four
// pages are missing pages of a userfaultfd; that is closed as soon as the call has begun. Never
// returns where they livelock: call it in a process of its own. Throws where memory, a thread or a
// userfaultfd cannot be had.
GupClose close_against_gup(GupUser user, uint64_t fresh_bytes);

}  // namespace uffd::workload
