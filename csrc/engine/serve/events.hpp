// Reads the messages of a living target and applies its events: FORK, REMAP, REMOVE and UNMAP.
//
// One thread reads a target's messages: its handler, or the ender once that has let go of it. An
// event's sender sleeps until it is read, holding locks that are its own: nothing here waits for
// one of those.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "engine/serve/served_target.hpp"

namespace uffd {

struct LivingRead {
  ssize_t count = 0;                                    // of messages, or -errno
  std::vector<std::shared_ptr<ServedTarget>> children;  // of FORK events: nobody serves them yet
};

// Reads up to messages.size() of them and applies the events among them, alone in the target's
// gate. With -EMFILE, -ENFILE or -ENOMEM a FORK event is still queued: no descriptor could be made.
LivingRead read_living(ServedTarget& served, std::span<uffd_msg> messages, Counters& counters);

// Settles a fork child that cannot be served: poisons what is missing, or where the kernel cannot,
// installs it.
void settle_unserved(ServedTarget& child, Counters& counters);

}  // namespace uffd
