// Owned descriptors. Move-only; any thread may destroy one, nobody may use one that another thread
// closes.
#pragma once

#include <utility>

#include "engine/linux/error.hpp"
#include "engine/linux/syscall.hpp"

namespace uffd {

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) noexcept : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() { close(); }

  int get() const noexcept { return fd_; }
  explicit operator bool() const noexcept { return fd_ >= 0; }

  int release() noexcept { return std::exchange(fd_, -1); }

  // Idempotent. The number may belong to another file as soon as this returns.
  void close() noexcept {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }

 private:
  int fd_ = -1;
};

// An eventfd that wakes the one thread that polls it.
class WakeFd {
 public:
  WakeFd() : fd_(or_throw(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd")) {}

  int get() const noexcept { return fd_.get(); }
  void signal() noexcept { (void)!::eventfd_write(fd_.get(), 1); }
  void drain() noexcept {
    eventfd_t value;
    (void)!::eventfd_read(fd_.get(), &value);
  }
  // Nobody waits for it any more, and nobody signals.
  void close() noexcept { fd_.close(); }

 private:
  Fd fd_;
};

}  // namespace uffd
