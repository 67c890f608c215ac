// A descriptor of a process, readable once the process has exited. It does not tell of an exec.
#pragma once

#include "engine/linux/fd.hpp"

namespace uffd {

// Empty where there is no such process, or no pidfd_open(2) (Linux 5.3).
inline Fd open_pidfd(pid_t pid) noexcept {
  const long fd = ::syscall(SYS_pidfd_open, pid, 0);
  return fd >= 0 ? Fd(static_cast<int>(fd)) : Fd();
}

}  // namespace uffd
