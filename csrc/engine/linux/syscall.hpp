// System calls that return -errno, so that nobody above reads errno. No policy.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <ctime>

namespace uffd::sys {

template <typename Result>
inline Result or_errno(Result result) noexcept {
  return result < 0 ? static_cast<Result>(-errno) : result;
}

inline int open(const char* path, int flags) noexcept {
  return or_errno(::open(path, flags | O_CLOEXEC));
}

template <typename Argument>
inline int ioctl(int fd, unsigned long request, Argument argument) noexcept {
  return or_errno(::ioctl(fd, request, argument));
}

inline ssize_t read(int fd, void* buffer, size_t length) noexcept {
  return or_errno(::read(fd, buffer, length));
}

inline int userfaultfd(int flags) noexcept {
  return static_cast<int>(or_errno(::syscall(SYS_userfaultfd, flags)));
}

// kcmp(2) with KCMP_FILE: 0 when both descriptors are the same open file, > 0 when not.
inline int kcmp_file(pid_t pid1, int fd1, pid_t pid2, int fd2) noexcept {
  constexpr int kcmp_file_type = 0;
  return static_cast<int>(or_errno(::syscall(SYS_kcmp, pid1, pid2, kcmp_file_type, fd1, fd2)));
}

inline int epoll_wait(int fd, epoll_event* events, int capacity, int timeout_ms) noexcept {
  return or_errno(::epoll_wait(fd, events, capacity, timeout_ms));
}

inline int epoll_add(int epoll, int fd, uint32_t events, void* data) noexcept {
  epoll_event event{};
  event.events = events;
  event.data.ptr = data;
  return or_errno(::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
}

inline int epoll_remove(int epoll, int fd) noexcept {
  return or_errno(::epoll_ctl(epoll, EPOLL_CTL_DEL, fd, nullptr));
}

inline int madvise(uint64_t start, uint64_t length, int advice) noexcept {
  return or_errno(::madvise(reinterpret_cast<void*>(start), length, advice));
}

// MADV_POPULATE_WRITE (Linux 5.14).
inline constexpr int kPopulateWrite = 23;

// Whether the page of this process is in memory (mincore(2)); waits for mmap_lock.
inline bool resident(uint64_t address) noexcept {
  unsigned char in_core = 0;
  return ::mincore(reinterpret_cast<void*>(address), 1, &in_core) == 0 && (in_core & 1) != 0;
}

// Base page size, in bytes: 4096 on x86-64; 4, 16 or 64 KiB on aarch64.
inline const auto kPageSize = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
inline uint64_t page_size() noexcept {
  return kPageSize;
}

// CLOCK_MONOTONIC, in nanoseconds: the clock of Python's time.monotonic_ns().
inline uint64_t monotonic_ns() noexcept {
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace uffd::sys
