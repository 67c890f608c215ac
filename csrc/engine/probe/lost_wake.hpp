// Whether UNREGISTER leaves threads asleep on the running kernel.
//
// UNREGISTER wakes the waiters of a region before it takes its VMA away from the userfaultfd. On
// kernels whose userfaults take the lock of their VMA (since 6.6; other faults since 6.4) a fault
// can slip in between, and then sleeps on: until UFFDIO_WAKE of the range, or close, which clears
// first and wakes last.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace uffd {

enum class Release {
  unregister,           // UFFDIO_UNREGISTER alone
  unregister_and_wake,  // and UFFDIO_WAKE of the range
  close,                // close alone
};

struct LostWakePlan {
  Release release = Release::unregister;
  size_t threads = 4;       // each reads fresh pages of the region as fast as it can
  uint64_t pages = 64;      // of each thread
  uint64_t rounds = 50000;  // at most; a round is one REGISTER and one release, without serving
  std::chrono::milliseconds limit{60000};  // for all of them
};

struct LostWakes {
  uint64_t rounds = 0;
  uint64_t lost = 0;  // rounds that left a thread asleep; it was woken then
};

// A thread that a close loses cannot be woken and is left behind, with its memory: call it in a
// process of its own. Throws where memory, threads, a userfaultfd or its fdinfo cannot be had.
LostWakes count_lost_wakes(const LostWakePlan& plan);

}  // namespace uffd
