// One userfaultfd: how it is opened, its API handshake, and every ioctl one to one.
//
// Owns the descriptor. The ioctls return 0 or -errno and hold no policy (that is the installer's).
// Any number of threads may call them at once; nobody may call one while another thread closes or
// destroys the object.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "engine/linux/fork_closed_fd.hpp"
#include "engine/linux/uapi.hpp"

namespace uffd {

enum class Access {
  full,            // serves user and kernel accesses
  user_mode_only,  // a kernel access to a missing page fails with EFAULT; needs no permission
  best,            // full where permitted, else user_mode_only
};

// What COPY, ZEROPAGE, CONTINUE, POISON and MOVE say: 0 or -errno, and how many bytes were done
// before that. A partial result is {-EAGAIN, bytes > 0}; {-EAGAIN, 0} means that mmap_changing was
// raised and nothing was done.
struct Progress {
  int error = 0;
  uint64_t bytes = 0;
};

class Userfaultfd {
 public:
  Userfaultfd() = default;  // closed

  // Opens, in this order, /dev/userfaultfd, userfaultfd(2), and for Access::best userfaultfd(2)
  // with UFFD_USER_MODE_ONLY; always with O_CLOEXEC and O_NONBLOCK; then UFFDIO_API with these
  // features. Throws UnsupportedError that names what to change.
  static Userfaultfd open(Access access, uint64_t features);

  // Takes a descriptor from elsewhere, whose UFFDIO_API is done, and makes it non-blocking. Throws
  // std::invalid_argument where the descriptor is no such userfaultfd.
  static Userfaultfd adopt(Fd fd);

  // The userfaultfd of a fork child, from a FORK event that was read from parent while forks were
  // held. Where it throws std::bad_alloc the descriptor stays open.
  static Userfaultfd of_fork(int fd, const Userfaultfd& parent, const HeldForks& held_forks);

  int fd() const noexcept { return fd_.get(); }
  // False when closed, and in a fork child, which never keeps one.
  bool is_open() const noexcept { return static_cast<bool>(fd_); }
  uint64_t features() const noexcept { return features_; }
  // False, too, for a userfaultfd from elsewhere that was opened so: the kernel does not tell.
  bool user_mode_only() const noexcept { return user_mode_only_; }
  void close() noexcept { fd_.close(); }
  // Gives the descriptor up without closing it, for a target that must not be released: its
  // touchers sleep on.
  void leave_open() noexcept { fd_.leave_open(); }

  // Reads up to messages.size() messages; returns their number, or -EAGAIN when there is none. A
  // received userfaultfd's owner may have taken its O_NONBLOCK away: from Linux 6.10 on the read
  // does not wait all the same.
  ssize_t read(std::span<uffd_msg> messages) const noexcept;
  // The same, and never waits; always -EAGAIN on kernels before 6.10, where may_look() is false.
  ssize_t look(std::span<uffd_msg> messages) const noexcept;
  static bool may_look() noexcept;
  // The same, but waits where O_NONBLOCK is off.
  ssize_t read_waiting(std::span<uffd_msg> messages) const noexcept;

  // On success *ioctls has the bits 1 << _UFFDIO_x of the calls that the range admits.
  int register_range(uint64_t start, uint64_t length, uint64_t mode,
                     uint64_t* ioctls) const noexcept;
  int unregister(uint64_t start, uint64_t length) const noexcept;
  int wake(uint64_t start, uint64_t length) const noexcept;
  Progress copy(uint64_t destination, uint64_t source, uint64_t length,
                uint64_t mode) const noexcept;
  Progress zeropage(uint64_t start, uint64_t length, uint64_t mode) const noexcept;
  int writeprotect(uint64_t start, uint64_t length, uint64_t mode) const noexcept;
  Progress continue_(uint64_t start, uint64_t length, uint64_t mode) const noexcept;
  Progress poison(uint64_t start, uint64_t length, uint64_t mode) const noexcept;
  Progress move(uint64_t destination, uint64_t source, uint64_t length,
                uint64_t mode) const noexcept;

 private:
  Userfaultfd(ForkClosedFd fd, bool user_mode_only) noexcept
      : fd_(std::move(fd)), user_mode_only_(user_mode_only) {}

  ForkClosedFd fd_;
  uint64_t features_ = 0;
  bool user_mode_only_ = false;
  bool received_ = false;
};

// How one way of opening went: 0, or the errno with which it was refused.
struct OpenAttempts {
  int device = 0;          // /dev/userfaultfd
  int syscall = 0;         // userfaultfd(2), kernel accesses too
  int user_mode_only = 0;  // userfaultfd(2) with UFFD_USER_MODE_ONLY
  int fork_events = 0;     // the feature EVENT_FORK, of whichever can be opened
};

// Tries every way, on throw-away descriptors.
OpenAttempts try_opening() noexcept;

// The features that UFFDIO_API offers on a throw-away descriptor; 0 where none can be opened. The
// kernel is asked until it has answered once.
uint64_t offered_features() noexcept;

// The value of vm.unprivileged_userfaultfd, or -1 where it cannot be read.
int unprivileged_sysctl() noexcept;

}  // namespace uffd
