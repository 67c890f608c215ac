// What the threads of a workload saw: noted by each for itself, and put together after the join.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "workload/access_log.hpp"
#include "workload/crew.hpp"

namespace uffd::workload {

inline constexpr size_t kWrongAddresses = 16;  // that are kept; all are counted

// Of one thread, which alone writes it. Allocates at construction only.
struct Notes {
  explicit Notes(size_t timeline_bins) : log(timeline_bins) {
    wrong_addresses.reserve(kWrongAddresses);
  }
  void wrong_page(uint64_t address) noexcept {
    if (wrong_pages++ < kWrongAddresses) wrong_addresses.push_back(address);
  }

  AccessLog log;
  uint64_t touched = 0;
  uint64_t wrong_pages = 0;
  std::vector<uint64_t> wrong_addresses;
};

// Of all threads together.
struct Touches {
  // Takes the notes of threads that were joined; there is at least one.
  Touches(uint64_t origin_ns, const std::vector<Shift>& shifts, std::vector<Notes> notes);

  uint64_t origin_ns;       // when the threads were let go (CLOCK_MONOTONIC); bin 0 begins here
  uint64_t elapsed_ns = 0;  // from then to the end of the last thread
  std::vector<uint64_t> thread_elapsed_ns;  // each from its own beginning
  uint64_t touched = 0;                     // accesses
  uint64_t wrong_pages = 0;                 // accesses after which the checksum was not as expected
  std::vector<uint64_t> wrong_addresses;    // the first kWrongAddresses of them
  uint64_t minor_faults = 0;
  uint64_t major_faults = 0;
  uint64_t cpu_ns = 0;
  AccessLog log;
};

}  // namespace uffd::workload
