// What it costs to wake a thread on an idle CPU: two threads on two CPUs wake each other in turn.
#pragma once

#include <cstdint>
#include <optional>

namespace uffd {

// Whether the CPUs halt when they are idle, or are kept awake by who calls.
enum class Idle { halts, is_awake };

// Nanoseconds from the system call of one thread to the first instruction of the other, the median
// of some hundred; takes some 10 ms. Empty where this process may not use two CPUs, or a thread
// cannot be started.
std::optional<uint64_t> wake_up_ns(Idle idle);

}  // namespace uffd
