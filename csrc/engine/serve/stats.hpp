// What serving a target took: counters and a latency histogram.
//
// Each thread that serves a target has Counters of its own and is their only writer; any thread may
// read them meanwhile. Threads that come and go count into Counters of their own, and add these to
// others that they share. Adding neither locks nor allocates.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "engine/serve/latency_histogram.hpp"

namespace uffd {

enum class Count : size_t {
  faults,        // fault messages read
  reads,         // read() calls that returned at least one message
  copies,        // COPY calls
  zeropages,     // ZEROPAGE calls
  continues,     // CONTINUE calls
  moves,         // MOVE calls that moved something
  moved_bytes,   // bytes installed by them
  fetches,       // read() calls of late sources
  pages,         // pages installed
  bytes,         // bytes installed
  minor_faults,  // of the faults, those on pages that were in the page cache
  write_faults,  // of the faults, those that met a write-protection, which was taken away
  eexist,        // pages found installed by another; woken
  enoent,        // pages found unmapped or no longer registered; woken
  eagain,        // calls that must be tried again: mmap_changing, or no memory
  events,        // FORK, REMAP, REMOVE and UNMAP messages read
  forks,
  remaps,
  removes,
  unmaps,
  dropped,     // faults on pages that the target had dropped itself; they read as zeros
  blank,       // faults on memory that grew out of regions, or was vacated by them; zeros
  poisoned,    // pages that could not be supplied, poisoned
  lost_wakes,  // threads that slept though nobody was going to wake them; woken
  failed,      // pages that could be neither supplied nor poisoned; their touchers sleep
  size
};

inline constexpr size_t kCounts = static_cast<size_t>(Count::size);
using CountValues = std::array<uint64_t, kCounts>;

class Counters {
 public:
  void add(Count which, uint64_t value = 1) noexcept {
    auto& count = values_[static_cast<size_t>(which)];
    count.store(count.load(std::memory_order_relaxed) + value, std::memory_order_relaxed);
  }

  // To counters that any number of threads add to at once, and only in this way.
  void add_shared(const Counters& counted) noexcept {
    for (size_t i = 0; i < kCounts; ++i) {
      const uint64_t value = counted.values_[i].load(std::memory_order_relaxed);
      if (value > 0) values_[i].fetch_add(value, std::memory_order_relaxed);
    }
  }

  uint64_t get(Count which) const noexcept {
    return values_[static_cast<size_t>(which)].load(std::memory_order_relaxed);
  }

  void add_to(CountValues& sum) const noexcept {
    for (size_t i = 0; i < kCounts; ++i) sum[i] += values_[i].load(std::memory_order_relaxed);
  }

 private:
  // Each thread's own cache lines.
  alignas(64) std::array<std::atomic<uint64_t>, kCounts> values_{};
};

// A moment's sum over all threads. latency: from the read of a fault's message until its page was
// installed.
struct Stats {
  CountValues counts{};
  std::array<uint64_t, LatencyHistogram::kBuckets> latency{};
};

}  // namespace uffd
