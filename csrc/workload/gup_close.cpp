#include "workload/gup_close.hpp"

#include <sys/uio.h>

#include <atomic>
#include <thread>

#include "engine/linux/mapping.hpp"
#include "engine/linux/thread.hpp"
#include "engine/linux/userfaultfd.hpp"

namespace uffd::workload {
namespace {

int call(GupUser user, const Mapping& memory, const Mapping& buffer) {
  void* const address = reinterpret_cast<void*>(memory.address());
  switch (user) {
    case GupUser::populate:
      return sys::madvise(memory.address(), memory.length(), sys::kPopulateWrite);
    case GupUser::mlock:
      return sys::or_errno(::mlock(address, memory.length()));
    case GupUser::process_vm_readv:
      break;
  }
  const iovec into{reinterpret_cast<void*>(buffer.address()), memory.length()};
  const iovec from{address, memory.length()};
  const ssize_t got = sys::or_errno(::process_vm_readv(::getpid(), &into, 1, &from, 1, 0));
  if (got < 0) return static_cast<int>(got);
  return static_cast<uint64_t>(got) == memory.length() ? 0 : -EFAULT;
}

}  // namespace

GupClose close_against_gup(GupUser user, uint64_t fresh_bytes) {
  const uint64_t armed = 4 * sys::page_size();
  const Mapping memory(fresh_bytes + armed, MemoryKind::anonymous, false);
  sys::madvise(memory.address(), memory.length(), MADV_NOHUGEPAGE);
  const Mapping buffer(memory.length(), MemoryKind::anonymous, false);
  Userfaultfd uffd = Userfaultfd::open(Access::full, 0);
  uint64_t ioctls = 0;
  const int refused = uffd.register_range(memory.address() + memory.length() - armed, armed,
                                          UFFDIO_REGISTER_MODE_MISSING, &ioctls);
  if (refused < 0) throw SystemError(-refused, "UFFDIO_REGISTER");

  GupClose result;
  std::atomic<bool> done{false};
  std::thread caller = start_thread("uffd-gup", std::nullopt, [&] {
    const uint64_t began = sys::monotonic_ns();
    result.error = -call(user, memory, buffer);
    result.call_ns = sys::monotonic_ns() - began;
    done = true;
  });
  while (!sys::resident(memory.address()) && !done) ::sched_yield();
  const uint64_t began = sys::monotonic_ns();
  uffd.close();
  result.close_ns = sys::monotonic_ns() - began;
  caller.join();
  return result;
}

}  // namespace uffd::workload
