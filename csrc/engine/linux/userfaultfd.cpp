#include "engine/linux/userfaultfd.hpp"

#include <sys/uio.h>

#include <array>
#include <atomic>
#include <stdexcept>

#include "engine/linux/fdinfo.hpp"

namespace uffd {

Userfaultfd Userfaultfd::adopt(Fd fd) {
  const std::string number = std::to_string(fd.get());
  const auto info = read_fdinfo(fd.get());
  if (!info) throw std::invalid_argument("descriptor " + number + " is not a userfaultfd");
  if (!(info->features & kFeatureInitialized)) {
    throw std::invalid_argument(
        "descriptor " + number +
        " is a userfaultfd whose UFFDIO_API was not done: its owner must call UFFDIO_API");
  }
  const int flags = or_throw(::fcntl(fd.get(), F_GETFL), "fcntl(F_GETFL)");
  or_throw(::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK), "fcntl(F_SETFL)");
  Userfaultfd adopted(ForkClosedFd([&] { return fd.release(); }), false);
  adopted.received_ = true;
  adopted.features_ = info->features & ~kFeatureInitialized;
  return adopted;
}

Userfaultfd Userfaultfd::of_fork(int fd, const Userfaultfd& parent, const HeldForks& held_forks) {
  Userfaultfd child(ForkClosedFd(fd, held_forks), parent.user_mode_only_);
  child.features_ = parent.features_;
  return child;
}

namespace {

ssize_t messages_in(ssize_t bytes) noexcept {
  return bytes < 0 ? bytes : bytes / static_cast<ssize_t>(sizeof(uffd_msg));
}

// Before Linux 6.10 a userfaultfd has no RWF_NOWAIT.
std::atomic<bool> lacks_nowait{false};

}  // namespace

ssize_t Userfaultfd::read(std::span<uffd_msg> messages) const noexcept {
  if (received_ && may_look()) {
    const ssize_t count = look(messages);
    if (may_look()) return count;
  }
  return messages_in(sys::read(fd(), messages.data(), messages.size_bytes()));
}

ssize_t Userfaultfd::look(std::span<uffd_msg> messages) const noexcept {
  const iovec place{messages.data(), messages.size_bytes()};
  const ssize_t bytes = sys::or_errno(::preadv2(fd(), &place, 1, -1, RWF_NOWAIT));
  if (bytes != -EOPNOTSUPP) return messages_in(bytes);
  lacks_nowait = true;
  return -EAGAIN;
}

bool Userfaultfd::may_look() noexcept {
  return !lacks_nowait.load(std::memory_order_relaxed);
}

ssize_t Userfaultfd::read_waiting(std::span<uffd_msg> messages) const noexcept {
  return messages_in(sys::read(fd(), messages.data(), messages.size_bytes()));
}

int Userfaultfd::register_range(uint64_t start, uint64_t length, uint64_t mode,
                                uint64_t* ioctls) const noexcept {
  uffdio_register request{};
  request.range = {start, length};
  request.mode = mode;
  const int result = sys::ioctl(fd(), UFFDIO_REGISTER, &request);
  *ioctls = request.ioctls;
  return result;
}

int Userfaultfd::unregister(uint64_t start, uint64_t length) const noexcept {
  uffdio_range range{start, length};
  return sys::ioctl(fd(), UFFDIO_UNREGISTER, &range);
}

int Userfaultfd::wake(uint64_t start, uint64_t length) const noexcept {
  uffdio_range range{start, length};
  return sys::ioctl(fd(), UFFDIO_WAKE, &range);
}

namespace {

// The out field is 0 before the call: kernels before 6.15 leave it untouched on EAGAIN. It may be a
// negated errno.
Progress progress(int result, int64_t out) noexcept {
  return {result < 0 ? result : 0, out > 0 ? static_cast<uint64_t>(out) : 0};
}

}  // namespace

Progress Userfaultfd::copy(uint64_t destination, uint64_t source, uint64_t length,
                           uint64_t mode) const noexcept {
  uffdio_copy request{};
  request.dst = destination;
  request.src = source;
  request.len = length;
  request.mode = mode;
  const int result = sys::ioctl(fd(), UFFDIO_COPY, &request);
  return progress(result, request.copy);
}

Progress Userfaultfd::zeropage(uint64_t start, uint64_t length, uint64_t mode) const noexcept {
  uffdio_zeropage request{};
  request.range = {start, length};
  request.mode = mode;
  const int result = sys::ioctl(fd(), UFFDIO_ZEROPAGE, &request);
  return progress(result, request.zeropage);
}

int Userfaultfd::writeprotect(uint64_t start, uint64_t length, uint64_t mode) const noexcept {
  uffdio_writeprotect request{};
  request.range = {start, length};
  request.mode = mode;
  return sys::ioctl(fd(), UFFDIO_WRITEPROTECT, &request);
}

Progress Userfaultfd::continue_(uint64_t start, uint64_t length, uint64_t mode) const noexcept {
  uffdio_continue request{};
  request.range = {start, length};
  request.mode = mode;
  const int result = sys::ioctl(fd(), UFFDIO_CONTINUE, &request);
  return progress(result, request.mapped);
}

Progress Userfaultfd::poison(uint64_t start, uint64_t length, uint64_t mode) const noexcept {
  uffdio_poison request{};
  request.range = {start, length};
  request.mode = mode;
  const int result = sys::ioctl(fd(), UFFDIO_POISON, &request);
  return progress(result, request.updated);
}

Progress Userfaultfd::move(uint64_t destination, uint64_t source, uint64_t length,
                           uint64_t mode) const noexcept {
  uffdio_move request{};
  request.dst = destination;
  request.src = source;
  request.len = length;
  request.mode = mode;
  const int result = sys::ioctl(fd(), UFFDIO_MOVE, &request);
  return progress(result, request.move);
}

}  // namespace uffd
