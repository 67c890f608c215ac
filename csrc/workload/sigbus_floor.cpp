#include "workload/sigbus_floor.hpp"

#include <signal.h>

#include "engine/linux/syscall.hpp"
#include "engine/linux/uapi.hpp"
#include "workload/floor.hpp"

namespace uffd::workload {
namespace {

SigbusPlan served;

void copy_window(int number, siginfo_t* info, void*) {
  const uint64_t bytes = served.window * served.page_size;
  const uint64_t offset = reinterpret_cast<uint64_t>(info->si_addr) - served.start;
  const uint64_t from = offset - offset % bytes;
  uffdio_copy request{};
  request.dst = served.start + from;
  request.src = served.source + from;
  request.len = bytes;
  if (sys::ioctl(served.fd, UFFDIO_COPY, &request) < 0) ::signal(number, SIG_DFL);
}

}  // namespace

uint64_t sigbus_touch(const SigbusPlan& plan) {
  served = plan;
  struct sigaction action{}, before{};
  action.sa_sigaction = copy_window;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGBUS, &action, &before);
  const uint64_t nanoseconds = native_touch(plan.start, plan.length, plan.page_size);
  ::sigaction(SIGBUS, &before, nullptr);
  return nanoseconds;
}

}  // namespace uffd::workload
