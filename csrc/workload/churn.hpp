// A target that lives: threads that touch and verify, write, drop, move and unmap their pages, and
// fork children that do so too, each against a model of what every byte must be.
//
//   each thread    its own pages of the memory, its own places to move them to, its own model
//   a fork child   the one thread that forked, with its model as it was: reads, drops, moves and
//                  writes some of its pages and exits; some children are killed on the way
//
// The memory is private and anonymous, and holds fill_pattern(seed) wherever nobody changed it: its
// manager installs that. The process should do nothing else meanwhile.
#pragma once

#include <chrono>
#include <cstdint>

namespace uffd::workload {

struct ChurnPlan {
  uint64_t address = 0;
  uint64_t pages = 0;    // of the system's page size
  uint64_t pattern = 1;  // seed of the bytes
  uint64_t seed = 1;     // of what is done
  unsigned threads = 2;  // no more than pages
  std::chrono::milliseconds time{1000};
  std::chrono::milliseconds between_forks{5};      // 0: never
  bool moves = true, drops = true, unmaps = true;  // what its userfaultfd tells of
};

struct Churned {
  uint64_t reads = 0, writes = 0, drops = 0, moves = 0, unmaps = 0;
  uint64_t forks = 0, kills = 0;  // of children
  uint64_t wrong_pages = 0;       // here and in children
  uint64_t broken_children = 0;   // that ended otherwise than they should
  uint64_t first_wrong = 0;       // the address of one of those pages
};

// Returns when the time is over and every thread has verified all of its pages. Throws
// std::invalid_argument.
Churned churn(const ChurnPlan& plan);

}  // namespace uffd::workload
