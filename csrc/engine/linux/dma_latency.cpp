#include "engine/linux/dma_latency.hpp"

#include <string>

#include "engine/linux/error.hpp"
#include "engine/linux/syscall.hpp"

namespace uffd {
namespace {

constexpr const char* kLatencyDevice = "/dev/cpu_dma_latency";

}  // namespace

int open_dma_latency() noexcept {
  return sys::open(kLatencyDevice, O_WRONLY);
}

int request_dma_latency(int fd, int32_t microseconds) noexcept {
  const ssize_t written = sys::or_errno(::write(fd, &microseconds, sizeof microseconds));
  return written < 0 ? static_cast<int>(written) : 0;
}

DmaLatency::DmaLatency() {
  const int fd = open_dma_latency();
  if (fd < 0) {
    throw UnsupportedError(-fd,
                           std::string("idle CPUs cannot be kept awake: ") + kLatencyDevice +
                               " cannot be opened for writing: run setfacl -m u:NAME:w " +
                               kLatencyDevice,
                           {kLatencyDevice});
  }
  fd_ = Fd(fd);
  const int error = request_dma_latency(fd, kNoLatency);
  if (error < 0) throw SystemError(-error, kLatencyDevice);
}

}  // namespace uffd
