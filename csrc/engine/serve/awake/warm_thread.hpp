// A thread at SCHED_IDLE that keeps the CPU from halting on which a target's thread sleeps: it
// yields to everything else, and a thread that is woken there need not wait for the CPU.
//
// Any thread may call begin(), follow() and end(), one begin() at a time. None of them allocates;
// begin() wakes the thread, which finds the CPU itself: what may take long it does alone.
#pragma once

#include <sched.h>
#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <thread>

namespace uffd {

// A thread that faults, and the handler that serves it.
struct FaultingThread {
  pid_t process = 0;     // 0: this one
  uint32_t own_id = 0;   // in its own pid namespace; 0: not known
  int handler_cpu = -1;  // on which the handler is
};

class WarmThread {
 public:
  // spent_ns: its CPU time, which it writes; outlives it. Throws SystemError where the thread
  // cannot be started, or may not be at SCHED_IDLE.
  explicit WarmThread(std::atomic<uint64_t>& spent_ns);
  WarmThread(const WarmThread&) = delete;
  WarmThread& operator=(const WarmThread&) = delete;
  ~WarmThread();

  void begin(const FaultingThread& thread) noexcept;
  void follow(const FaultingThread& thread) noexcept;
  void end() noexcept;

 private:
  enum State : uint32_t { resting, warming, stopped };

  void run();
  void warm();
  // The CPU that is to be kept awake, or -1: that of the thread that faulted last, unless the
  // handler is there.
  int find_cpu();

  std::atomic<uint64_t>& spent_ns_;
  const cpu_set_t cpus_;  // that this process may use
  std::atomic<uint32_t> state_{resting};
  // Of the thread; they may be of two touchers, and then the next look is right.
  std::atomic<pid_t> process_{0};
  std::atomic<uint32_t> own_id_{0};
  std::atomic<int> handler_cpu_{-1};
  pid_t known_process_ = 0, known_thread_ = 0;  // whose id was found
  uint32_t known_own_id_ = 0;
  std::thread thread_;  // last: it runs on all of the above
};

}  // namespace uffd
