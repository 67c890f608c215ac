// What /proc tells of one thread of this process.
#pragma once

#include <sys/types.h>

namespace uffd {

// 'R' running, 'S' sleeping, 'D' sleeping uninterruptibly (as a waiter for mmap_lock does), ...;
// '?' where there is no such thread, or no /proc. Takes no lock of the address space and allocates
// nothing.
char task_state(pid_t tid) noexcept;

}  // namespace uffd
