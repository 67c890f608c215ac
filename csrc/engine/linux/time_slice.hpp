// For how long the calling thread asks to run before the scheduler looks at other threads.
#pragma once

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>

namespace uffd {

// A thread with shorter slices than the one that runs takes the CPU from it when it is woken, if it
// is owed time; it gets no more in all. Needs no permission. Without effect before Linux 6.12, and
// for a thread that is not SCHED_OTHER (sched_setattr(2), sched_runtime; the kernel admits 0.1 to
// 100 ms, its default is 0.7 to 2.8 ms).
inline void ask_for_time_slices(std::chrono::nanoseconds length) noexcept {
  struct Attributes {  // struct sched_attr, as it was first: older C libraries lack it
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
  } attributes{};
  static_assert(sizeof attributes == 48);
  if (::syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) != 0 ||
      attributes.policy != SCHED_OTHER)
    return;
  attributes.runtime = static_cast<uint64_t>(length.count());
  ::syscall(SYS_sched_setattr, 0, &attributes, 0);
}

}  // namespace uffd
