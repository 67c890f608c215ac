#include "workload/dma_latency.hpp"

#include <cstdint>
#include <string>

#include "engine/linux/error.hpp"
#include "engine/linux/syscall.hpp"

namespace uffd::workload {
namespace {

constexpr const char* kDevice = "/dev/cpu_dma_latency";

}  // namespace

DmaLatency::DmaLatency() {
  const int fd = sys::open(kDevice, O_WRONLY);
  if (fd < 0) throw SystemError(-fd, std::string("cannot open ") + kDevice + " for writing");
  fd_ = Fd(fd);
  const int32_t microseconds = 0;
  or_throw(::write(fd_.get(), &microseconds, sizeof microseconds), kDevice);
}

}  // namespace uffd::workload
