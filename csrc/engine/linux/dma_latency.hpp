// Keeps idle CPUs from sleeping deeply, so that a wake-up does not wait for a CPU to leave a deep
// idle state.
#pragma once

#include "engine/linux/fd.hpp"

namespace uffd {

// Holds /dev/cpu_dma_latency open with the value 0; needs write access to it.
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
