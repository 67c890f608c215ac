// A descriptor that a fork child of this process closes at once: an inherited userfaultfd would
// keep it from being released, and its early close would do nothing.
//
// Opening and closing exclude fork (pthread_atfork), so that a child never keeps one that its
// parent was about to close.
#pragma once

#include <functional>
#include <mutex>

#include "engine/linux/fd.hpp"

namespace uffd {

class ForkClosedFd {
 public:
  ForkClosedFd() = default;
  // open returns a descriptor or -errno, which get() then returns.
  explicit ForkClosedFd(const std::function<int()>& open);
  // Takes one that was made while forks were held.
  ForkClosedFd(int fd, const std::unique_lock<std::mutex>& held_forks);
  ForkClosedFd(ForkClosedFd&& other) noexcept
      : fd_(std::exchange(other.fd_, -1)), generation_(other.generation_) {}
  ForkClosedFd& operator=(ForkClosedFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(generation_, other.generation_);
    return *this;
  }
  ~ForkClosedFd() { close(); }

  // This process does not fork as long as the lock is held: for a call that may make a descriptor.
  static std::unique_lock<std::mutex> hold_forks();

  int get() const noexcept { return fd_; }
  // False when closed, or inherited by this fork child.
  explicit operator bool() const noexcept;

  // Idempotent. In a fork child it does nothing: the descriptor is closed there already.
  void close() noexcept;
  int release() noexcept;

 private:
  int fd_ = -1;
  unsigned generation_ = 0;
};

}  // namespace uffd
