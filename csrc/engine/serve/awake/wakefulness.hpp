// Keeps CPUs awake during bursts of faults, for all handlers of a manager: by /dev/cpu_dma_latency
// where that may be opened and the machine has few CPUs, else by a warm thread.
//
// Made before the handlers start; they call begin(), follow() and end(). It never fails: what
// cannot be had is a slower way, and notes() tell which way it takes, and why.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "engine/linux/fork_closed_fd.hpp"
#include "engine/serve/awake/warm_thread.hpp"

namespace uffd {

// What it tells, also after its end; any thread reads.
struct WakefulnessNotes {
  std::string text;                      // which way it takes, and why; constant
  std::atomic<uint64_t> warm_cpu_ns{0};  // of the warm thread
};

class Wakefulness {
 public:
  // Looks at what this process may do, and at what costs others: a CPU quota of its cgroup, a
  // battery, a power-saving governor, one CPU.
  Wakefulness();

  // Whether handlers may burn more CPU time than their faults take.
  bool available() const noexcept { return static_cast<bool>(request_) || warm_; }
  // For each begin() one end() follows.
  void begin(const FaultingThread& thread) noexcept;
  // A thread faulted during a burst.
  void follow(const FaultingThread& thread) noexcept;
  void end() noexcept;

  std::shared_ptr<const WakefulnessNotes> notes() const noexcept { return notes_; }

 private:
  ForkClosedFd request_;  // of /dev/cpu_dma_latency: its last copy ends the request
  const std::shared_ptr<WakefulnessNotes> notes_ = std::make_shared<WakefulnessNotes>();
  std::unique_ptr<WarmThread> warm_;
  std::atomic<int> bursts_{0};  // of handlers
};

}  // namespace uffd
