// One round of the experiment that tells the release generations apart without luck.
//
// While one thread holds mmap_lock for reading (MADV_POPULATE_WRITE of fresh memory), another
// closes a userfaultfd: it is released at once, and the close then waits for the lock. A third
// thread meanwhile reads a missing page of that userfaultfd's region, under its VMA's own lock. A
// fourth thread reads a missing page of a userfaultfd that stays open: that its fault is delivered
// is the proof that faults still reach the userfaultfd while a writer waits for mmap_lock; kernels
// whose userfaults take mmap_lock (before 6.6) fail this proof.
#pragma once

#include <cstdint>
#include <string>

namespace uffd {

struct ReleaseRound {
  enum class Fault {
    undecided,  // the threads did not meet as they should: why says how
    sigbus,     // it got SIGBUS
    spun,       // it faulted again and again until the close was done
    slept,      // it waited for the close
  } fault = Fault::undecided;
  std::string why;
  uint64_t minor_faults = 0;  // of the thread that faulted
  uint64_t fault_ns = 0;      // how long its read took
  uint64_t close_ns = 0;
};

const char* name(ReleaseRound::Fault fault) noexcept;

// Populates held_bytes of fresh memory, and catches SIGBUS meanwhile: call it in a process of its
// own. Throws where memory, threads or a userfaultfd cannot be had.
ReleaseRound run_release_round(uint64_t held_bytes);

}  // namespace uffd
