// Who else holds a userfaultfd: release happens at the last reference only.
#pragma once

#include <sys/types.h>

namespace uffd {

enum class Holders {
  sole,     // no other descriptor of this process or of the target is the same userfaultfd
  shared,   // one is: a close here would release nothing
  unknown,  // the target's descriptors may not be looked at or compared
};

// Compares (kcmp) fd with every other userfaultfd descriptor of this process and of process pid;
// pid 0 is this process alone. Does not see a descriptor in flight in a socket, nor one of a third
// process.
Holders find_holders(int fd, pid_t pid);

}  // namespace uffd
