// /dev/cpu_dma_latency: how long the waking of an idle CPU may take
// (Documentation/power/pm_qos_interface.rst). With 0 idle CPUs poll, and wake-ups need no
// interrupt.
#pragma once

#include <cstdint>

#include "engine/linux/fd.hpp"

namespace uffd {

// A descriptor with a request of its own, which begins at 0 and ends with the last copy of it; or
// -errno.
int open_dma_latency() noexcept;

inline constexpr int32_t kNoLatency = 0;
inline constexpr int32_t kAnyLatency = 2'000'000'000;  // the kernel's default: no request
// 0 or -errno.
int request_dma_latency(int fd, int32_t microseconds) noexcept;

// Keeps idle CPUs awake as long as it lives; needs write access to the device.
class DmaLatency {
 public:
  // Throws UnsupportedError that names the device.
  DmaLatency();
  // Idempotent.
  void close() noexcept { fd_.close(); }

 private:
  Fd fd_;
};

}  // namespace uffd
