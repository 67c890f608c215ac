// A thread at SCHED_IDLE that keeps the CPU from halting on which a target's thread sleeps: it
// yields to everything else, and a thread that is woken there need not wait for the CPU.
//
// Any thread may call begin(), follow() and end(), one begin() at a time. None of them allocates;
// begin() wakes the thread, which finds the CPU itself: what may take long it does alone. Nobody
// waits for the thread, which busy CPUs may keep from running for a second.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "engine/serve/awake/faulting_thread.hpp"

namespace uffd {

class WarmThread {
 public:
  // spent_ns: its CPU time, which it writes. Throws SystemError where the thread cannot be started,
  // or may not be at SCHED_IDLE.
  explicit WarmThread(std::shared_ptr<std::atomic<uint64_t>> spent_ns);
  WarmThread(const WarmThread&) = delete;
  WarmThread& operator=(const WarmThread&) = delete;
  ~WarmThread();  // the thread ends when it next runs

  void begin(const FaultingThread& thread) noexcept;
  void follow(const FaultingThread& thread) noexcept;
  void end() noexcept;

 private:
  class Loop;
  const std::shared_ptr<Loop> loop_;  // the thread's, too
};

}  // namespace uffd
