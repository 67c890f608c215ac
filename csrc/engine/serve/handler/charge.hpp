// A charge: a target that a handler serves, with what that handler's thread alone knows of the
// target. Owned by the handler.
#pragma once

#include <memory>

#include "engine/serve/fault/window.hpp"
#include "engine/serve/handler/pending_faults.hpp"
#include "engine/serve/served/patience.hpp"
#include "engine/serve/served/served_target.hpp"

namespace uffd {

struct Charge {
  explicit Charge(std::shared_ptr<ServedTarget> target)
      : served(std::move(target)), window(served->settings.fault_around) {}

  const std::shared_ptr<ServedTarget> served;
  uint64_t fault_ns = 1'000;       // about what one of its faults takes this thread
  Patience patience;               // of the handler, with what it must try again
  bool unread = false;             // messages are queued that could not be read
  bool unwatched = false;          // epoll has no room for its userfaultfd: it is read on a timer
  bool end_when_complete = false;  // although the target is endless: its user closes it
  bool told_complete = false;      // the ender was told that an endless target is complete

  // Of Turns.
  bool ready = false, again = false;
  Charge* next_ready = nullptr;
  uint64_t due = 0;  // by CLOCK_MONOTONIC; 0: never

  uint64_t unseen_sleepers = 0;  // of Watchdog: at its last look

  // The large ones stand last: what each turn looks at shares few cache lines.
  PendingFaults pending;
  Window window;
};

}  // namespace uffd
