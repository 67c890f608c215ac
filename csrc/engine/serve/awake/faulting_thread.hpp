// Whose CPU is to be kept awake.
#pragma once

#include <sys/types.h>

#include <cstdint>

namespace uffd {

// A thread that faults, and the handler that serves it.
struct FaultingThread {
  pid_t process = 0;     // 0: this one
  uint32_t own_id = 0;   // in its own pid namespace; 0: not known
  int handler_cpu = -1;  // on which the handler is
};

}  // namespace uffd
