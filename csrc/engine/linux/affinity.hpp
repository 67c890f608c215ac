// Threads of any process: on which CPUs they may run, when they began, and what they cost.
//
// Threads are named by their id in this process's pid namespace. No policy.
#pragma once

#include <sched.h>
#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace uffd {

// The affinity mask of a thread; empty where there is no such thread.
std::optional<cpu_set_t> affinity_of(pid_t thread) noexcept;
// 0 or -errno: ESRCH; EPERM for another user's; EINVAL where its cpuset has none of these CPUs.
int set_affinity(pid_t thread, const cpu_set_t& mask) noexcept;

cpu_set_t only_cpu(int cpu) noexcept;

// The CPU on which the thread runs, or ran last; -1 where the thread is gone, or /proc is hidden.
int last_cpu_of(pid_t thread) noexcept;

// When the thread began, in clock ticks since boot: ids are reused, but an id and a start together
// name one thread for good. 0 where the thread is gone.
uint64_t start_ticks(pid_t thread) noexcept;
// The present time, on the same clock.
uint64_t ticks_now() noexcept;

// For how long the thread has run on a CPU, in nanoseconds; empty where the thread is gone, or the
// kernel does not tell.
std::optional<uint64_t> cpu_ns_of(pid_t thread) noexcept;

// The thread's name as ps shows it; empty where the thread is gone.
std::string name_of(pid_t thread);

std::vector<pid_t> threads_of(pid_t process);
// The living children of the process, their children, and so on.
std::vector<pid_t> descendants_of(pid_t process);

// The thread of a process that has this id in the process's own pid namespace; 0 where there is
// none.
pid_t thread_by_own_id(pid_t process, pid_t own_id);

}  // namespace uffd
