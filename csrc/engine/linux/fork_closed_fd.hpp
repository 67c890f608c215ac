// A descriptor that a fork child of this process closes at once: an inherited userfaultfd would
// keep it from being released, and its early close would do nothing.
//
// Opening and closing exclude fork by one lock (AtFork), so that a child never keeps a descriptor
// that its parent was about to close. A thread that a fork may wait for, a handler above all, never
// waits for that lock: such a thread calls try_hold_forks() and try_close(), and comes back later.
#pragma once

#include <functional>
#include <mutex>

#include "engine/linux/fd.hpp"

namespace uffd {

// This process does not fork as long as the lock is held: for a call that may make a descriptor.
using HeldForks = std::unique_lock<std::mutex>;

class ForkClosedFd {
 public:
  ForkClosedFd() = default;
  // open returns a descriptor or -errno, which get() then returns. Throws std::bad_alloc before it
  // opens.
  explicit ForkClosedFd(const std::function<int()>& open);
  // Takes a descriptor that was made while forks were held. Where it throws std::bad_alloc the
  // descriptor stays open, and belongs to the caller.
  ForkClosedFd(int fd, const HeldForks& held_forks);
  ForkClosedFd(ForkClosedFd&& other) noexcept
      : fd_(std::exchange(other.fd_, -1)), generation_(other.generation_) {}
  ForkClosedFd& operator=(ForkClosedFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(generation_, other.generation_);
    return *this;
  }
  ~ForkClosedFd() { close(); }

  // Waits for a fork that is under way.
  static HeldForks hold_forks();
  // Owns nothing where a fork is under way, or another thread holds forks.
  static HeldForks try_hold_forks();

  int get() const noexcept { return fd_; }
  // False when closed, or inherited by this fork child. Takes no lock.
  explicit operator bool() const noexcept;

  // All three are idempotent. In a fork child they do nothing: the descriptor is closed there
  // already.
  void close() noexcept;      // waits for a fork that is under way
  bool try_close() noexcept;  // false, and nothing is closed, where close() would wait
  void close(const HeldForks& held_forks) noexcept;

  // This process keeps the descriptor for good, and fork children close it still. Takes no lock.
  void leave_open() noexcept;

 private:
  int fd_ = -1;
  unsigned generation_ = 0;
};

}  // namespace uffd
