// Interrupts the blocking system calls of one thread, from any other or on a timer.
//
// Sends a real-time signal whose handler does nothing; the first use takes one such signal for the
// whole process. The signal may come before the system call begins: so the caller of interrupt()
// first changes what that call looks at (O_NONBLOCK, say), and the call does not block then.
#pragma once

#include <sys/types.h>

#include <chrono>

namespace uffd {

class ThreadInterrupt {
 public:
  // Interrupts the calling thread, which alone owns and destroys the object. Without a free signal
  // or a timer the object does nothing, and available() is false.
  ThreadInterrupt();
  ThreadInterrupt(const ThreadInterrupt&) = delete;
  ThreadInterrupt& operator=(const ThreadInterrupt&) = delete;
  ~ThreadInterrupt();

  bool available() const noexcept { return available_; }
  // Any thread, while the object lives.
  void interrupt() const noexcept;
  // Interrupts once in every period, until it is called with zero. By the owner.
  void every(std::chrono::milliseconds period) noexcept;

 private:
  int signal_ = 0;
  pid_t thread_ = 0;
  void* timer_ = nullptr;
  bool available_ = false;
};

}  // namespace uffd
