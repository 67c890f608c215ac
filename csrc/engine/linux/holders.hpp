// Who else holds a userfaultfd: release happens at the last reference only.
#pragma once

#include <sys/types.h>

namespace uffd {

enum class Holders {
  sole,     // no other descriptor that may be looked at is the same userfaultfd
  shared,   // one is: a close here would release nothing
  unknown,  // the target's descriptors may not be looked at or compared
};

// Compares (kcmp) fd with every other userfaultfd descriptor of this process, of process pid, and
// of every other process that this user may look at; for pid 0 of this process alone, which closes
// its userfaultfds in fork children. Does not see a descriptor in flight in a socket.
Holders find_holders(int fd, pid_t pid);

}  // namespace uffd
