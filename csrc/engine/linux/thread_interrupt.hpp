// Interrupts the blocking system calls of one thread, from any other or on a timer.
//
// A real-time signal with a handler that does nothing, of which one in the process is taken at the
// first use. The signal may come before the system call begins: whoever interrupts first changes
// what that call looks at (O_NONBLOCK, say), so that it does not block then.
#pragma once

#include <sys/types.h>

#include <chrono>

namespace uffd {

class ThreadInterrupt {
 public:
  // Of the calling thread, which alone owns and destroys it. Without a free signal or a timer it
  // does nothing, and available() is false.
  ThreadInterrupt();
  ThreadInterrupt(const ThreadInterrupt&) = delete;
  ThreadInterrupt& operator=(const ThreadInterrupt&) = delete;
  ~ThreadInterrupt();

  bool available() const noexcept { return available_; }
  // Any thread, while the object lives.
  void interrupt() const noexcept;
  // Interrupts again and again; zero: no more. By the owner.
  void every(std::chrono::milliseconds period) noexcept;

 private:
  int signal_ = 0;
  pid_t thread_ = 0;
  void* timer_ = nullptr;
  bool available_ = false;
};

}  // namespace uffd
