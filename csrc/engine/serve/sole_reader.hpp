// Waits for the messages of a handler's only target inside read(2), which takes one system call
// less for each fault than to wait for any of several; whoever wants something of the handler ends
// the wait at once.
//
// One thread, the owner, calls everything but interrupt(). The userfaultfd's O_NONBLOCK is off from
// enter() to leave().
#pragma once

#include <atomic>
#include <chrono>
#include <mutex>
#include <span>

#include "engine/linux/thread_interrupt.hpp"
#include "engine/linux/userfaultfd.hpp"

namespace uffd {

class SoleReader {
 public:
  // How long nobody need fault until a wait ends by itself, or twice that.
  static constexpr std::chrono::milliseconds kQuiet{50};

  // False where it was interrupted since the last resume(), or cannot be: then wait otherwise.
  bool enter(const Userfaultfd& uffd);
  void leave();
  // Interrupts that came until now are obeyed.
  void resume();

  // Like Userfaultfd::read, but waits; -EINTR or -EAGAIN when interrupted, or it is quiet.
  ssize_t read(std::span<uffd_msg> messages) noexcept;
  // Like Userfaultfd::read; always -EAGAIN on kernels before 6.10, which cannot.
  ssize_t try_read(std::span<uffd_msg> messages) noexcept;

  // Any thread, any time.
  void interrupt();
  // Whether it was, since the last resume(). Where faults never cease no read waits, and so none
  // tells.
  bool interrupted() const noexcept { return interrupted_.load(std::memory_order_relaxed); }
  // Whether try_read() can find anything.
  bool can_look() const noexcept { return can_look_; }

 private:
  bool make_blocking(bool blocking) noexcept;

  ThreadInterrupt thread_;
  std::mutex mutex_;
  const Userfaultfd* uffd_ = nullptr;     // between enter() and leave()
  std::atomic<bool> interrupted_{false};  // written under the mutex
  bool can_look_ = true;                  // the owner's
};

}  // namespace uffd
