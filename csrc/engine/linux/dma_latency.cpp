#include "engine/linux/dma_latency.hpp"

#include <cstdint>
#include <string>

#include "engine/linux/error.hpp"
#include "engine/linux/syscall.hpp"

namespace uffd {
namespace {

constexpr const char* kDevice = "/dev/cpu_dma_latency";

}  // namespace

DmaLatency::DmaLatency() {
  const int fd = sys::open(kDevice, O_WRONLY);
  if (fd < 0) {
    throw UnsupportedError(-fd,
                           std::string("idle CPUs cannot be kept awake: ") + kDevice +
                               " cannot be opened for writing: run setfacl -m u:NAME:w " + kDevice,
                           {kDevice});
  }
  fd_ = Fd(fd);
  const int32_t microseconds = 0;
  or_throw(::write(fd_.get(), &microseconds, sizeof microseconds), kDevice);
}

}  // namespace uffd
