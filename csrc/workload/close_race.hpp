// Closes, each raced by threads that touch the very pages it releases.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

#include "engine/linux/mapping.hpp"
#include "engine/linux/range.hpp"

namespace uffd::workload {

struct CloseRacePlan {
  size_t threads = 2;  // at most 64
  uint64_t pages = 2;  // of the region; each thread touches all of them
  MemoryKind kind = MemoryKind::anonymous;
  bool shared = false;
  bool thp = false;      // anonymous memory with MADV_HUGEPAGE: a write fault zeroes 2 MiB first
  bool write = false;    // each thread writes a word of its own to each page; else it only reads
  bool complete = true;  // every page is copied before the close; else a random half of them
  uint64_t closes = 1000;
  std::chrono::milliseconds limit{60000};  // for all of them
};

struct CloseRaceResult {
  uint64_t closes = 0;
  uint64_t raced = 0;     // closes that found a thread at work: begun, and not through
  uint64_t accesses = 0;  // to pages
  uint64_t sigbus = 0;    // accesses that got SIGBUS
  uint64_t wrong = 0;  // pages with other bytes than were copied or written; zeros if never copied
  uint64_t lost = 0;   // threads that did not come back from the last close: it ends the race
  uint64_t elapsed_ns = 0;
};

// Catches SIGBUS meanwhile, and leaves lost threads and their memory behind: call it in a process
// of its own. Throws std::invalid_argument, and where memory, threads or a userfaultfd cannot be
// had.
CloseRaceResult race_closes(const CloseRacePlan& plan);

}  // namespace uffd::workload
