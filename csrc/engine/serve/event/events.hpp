// Reads the messages of a living target and applies its events: FORK, REMAP, REMOVE and UNMAP.
//
// One thread reads a target's messages: its handler, or the ender once the handler has let go of
// the target. An event's sender sleeps until the event is read and holds locks of its own
// meanwhile, and a fork of this process holds the engine's locks: nothing here waits for a lock of
// either.
#pragma once

#include <functional>
#include <span>

#include "engine/serve/served/served_target.hpp"

namespace uffd {

// Takes the userfaultfd of a fork child; called while the parent's regions and pages are as at the
// fork.
using OnFork = std::function<void(ServedTarget& parent, Userfaultfd child)>;

// Reads up to messages.size() of them and applies the events among them, alone in the target's
// gate. Returns the number of messages, or -errno: with -EMFILE, -ENFILE or -ENOMEM a FORK event is
// still queued, for which no descriptor could be made; with -EBUSY nothing was read, since a fork
// of this process is under way, into whose child a descriptor could slip.
ssize_t read_living(ServedTarget& served, std::span<uffd_msg> messages, Counters& counters,
                    const OnFork& on_fork);

// For a target whose manager has died: applies the events that it had read and not yet noted. Fork
// children among them have died with it: returns how many. Before the target is served.
unsigned apply_left(ServedTarget& served);

}  // namespace uffd
