// Wakes every thread that sleeps at a fault of a userfaultfd, wherever its memory lies: they fault
// once more. Where a fault was read by somebody who will not answer it, nobody is told of it again.
#pragma once

#include <array>
#include <cerrno>
#include <cstdint>

#include "engine/linux/syscall.hpp"
#include "engine/linux/uapi.hpp"

namespace uffd::sys {

// WAKE admits any addresses of the address space (validate_range() of mm/userfaultfd.c), whose
// bounds no system call tells: up to task_size, from vm.mmap_min_addr on.
inline void wake_everything(int uffd) noexcept {
  constexpr std::array bits{56, 52, 48, 47, 38};
  constexpr uint64_t lowest = 64 << 10, low = 1 << 20;
  const auto wake = [uffd](uint64_t start, uint64_t end) {
    uffdio_range range{start, end - start};
    return ioctl(uffd, UFFDIO_WAKE, &range) != -EINVAL;
  };
  wake(lowest, low);
  for (const int each : bits) {
    const uint64_t end = uint64_t{1} << each;
    if (wake(low, end) || wake(low, end - page_size())) return;
  }
}

}  // namespace uffd::sys
