// Reads the last events of a living target before its userfaultfd is closed, so that their senders
// go on and fork children become targets; and sets the markers of poisoned pages again, which a
// removal may have taken away.
#pragma once

#include "engine/serve/served/served_target.hpp"

namespace uffd {

// By the ender, the target's only user. Bounded: under a storm of events, the later ones count as
// having come after the ending.
void drain(ServedTarget& served);

}  // namespace uffd
