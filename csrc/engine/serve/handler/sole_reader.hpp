// Waits for the messages of a handler's only target inside read(2), which takes one system call
// less for each fault than epoll_wait(2) and read(2); a command for the handler ends the wait at
// once.
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
#include "engine/serve/served/mailbox.hpp"

namespace uffd {

class SoleReader final : public Mailbox::Interrupt {
 public:
  // A wait ends by itself when no fault came for this long, or for twice as long.
  static constexpr std::chrono::milliseconds kQuiet{50};

  explicit SoleReader(Mailbox& mailbox) : mailbox_(mailbox) { mailbox_.set_interrupt(this); }
  SoleReader(const SoleReader&) = delete;
  SoleReader& operator=(const SoleReader&) = delete;
  ~SoleReader() { mailbox_.set_interrupt(nullptr); }

  // False where interrupt() was called since the last resume(), or cannot work: then wait in
  // epoll_wait(2).
  bool enter(const Userfaultfd& uffd);
  void leave();
  // Called before the owner takes its commands: interrupts until now are done with.
  void resume();

  // Like Userfaultfd::read, but waits; -EINTR or -EAGAIN when interrupted, or after kQuiet.
  ssize_t read(std::span<uffd_msg> messages) noexcept { return uffd_->read_waiting(messages); }
  // Like Userfaultfd::read: does not wait.
  ssize_t try_read(std::span<uffd_msg> messages) noexcept { return uffd_->look(messages); }

  // Any thread, any time.
  void interrupt() override;
  // Whether interrupt() was called since the last resume(). Where faults never cease no read waits,
  // so that no read returns -EINTR.
  bool interrupted() const noexcept { return interrupted_.load(std::memory_order_relaxed); }

 private:
  bool make_blocking(bool blocking) noexcept;

  Mailbox& mailbox_;
  ThreadInterrupt thread_;
  std::mutex mutex_;
  const Userfaultfd* uffd_ = nullptr;     // between enter() and leave()
  std::atomic<bool> interrupted_{false};  // written under the mutex
};

}  // namespace uffd
