// What serving a target took: counters and a latency histogram.
//
// A target's handler has Counters of its own; other threads count one call into Counters of that
// call, and add these to the target's shared ones. Any thread may read. Adding neither locks nor
// allocates.
#pragma once

#include <pthread.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "engine/serve/served/latency_histogram.hpp"

namespace uffd {

enum class Count : size_t {
  faults,         // fault messages read
  reads,          // read() calls that returned at least one message
  copies,         // COPY calls
  zeropages,      // ZEROPAGE calls
  continues,      // CONTINUE calls
  moves,          // MOVE calls that moved something
  moved_bytes,    // bytes installed by them
  fetches,        // requests to late sources that were settled
  pages,          // pages installed
  bytes,          // bytes installed
  minor_faults,   // of the faults, those on pages that were in the page cache
  write_faults,   // of the faults, those that met a write-protection, which was taken away
  eexist,         // pages found present; woken
  found_present,  // of these, those that none of our threads installed
  came_second,    // pages that one of our threads found present before their installer marked them
  enoent,         // pages found unmapped or no longer registered; woken
  eagain,         // calls that must be tried again: mmap_changing, or no memory
  events,         // FORK, REMAP, REMOVE and UNMAP messages read
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

// Counters with one writer at a time.
class Counters {
 public:
  void add(Count which, uint64_t value = 1) noexcept {
    auto& count = values_[static_cast<size_t>(which)];
    count.store(count.load(std::memory_order_relaxed) + value, std::memory_order_relaxed);
  }

  uint64_t get(Count which) const noexcept {
    return values_[static_cast<size_t>(which)].load(std::memory_order_relaxed);
  }

  void add_to(CountValues& sum) const noexcept {
    for (size_t i = 0; i < kCounts; ++i) sum[i] += values_[i].load(std::memory_order_relaxed);
  }

 private:
  alignas(64) std::array<std::atomic<uint64_t>, kCounts> values_{};
};

// Counters of any number of threads and signal handlers. Each thread adds to one part, which few
// threads share.
class SharedCounters {
 public:
  void add(const Counters& counted) noexcept {
    // pthread_self() differs by thread, also on the alternate stack of a signal handler.
    Part& part = parts_[(static_cast<size_t>(::pthread_self()) >> 12) % parts_.size()];
    for (size_t i = 0; i < kCounts; ++i) {
      if (const uint64_t value = counted.get(static_cast<Count>(i)))
        part.values[i].fetch_add(value, std::memory_order_relaxed);
    }
  }
  void add_to(CountValues& sum) const noexcept {
    for (const Part& part : parts_) {
      for (size_t i = 0; i < kCounts; ++i) sum[i] += part.values[i].load(std::memory_order_relaxed);
    }
  }

 private:
  struct alignas(64) Part {
    std::array<std::atomic<uint64_t>, kCounts> values{};
  };
  std::array<Part, 8> parts_;
};

// A moment's sum over all threads. latency: from the read of a fault's message until its page was
// installed.
struct Stats {
  CountValues counts{};
  std::array<uint64_t, LatencyHistogram::kBuckets> latency{};
};

}  // namespace uffd
