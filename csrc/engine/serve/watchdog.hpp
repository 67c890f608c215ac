// Looks after targets whose handler has nothing to do: is the address space still there, and does
// nobody sleep unseen?
//
// The handler's thread calls it, when it was idle for kPause; never on the path of a fault.
#pragma once

#include "engine/serve/end_queue.hpp"

namespace uffd {

class Watchdog {
 public:
  static constexpr std::chrono::milliseconds kPause{1000};

  explicit Watchdog(EndQueue& ends) : ends_(ends) {}

  // No message tells of death or exec: the userfaultfd's next ioctl does. Ends a target whose
  // address space is gone.
  void check_life(ServedTarget& served);

  // A thread that slept through a whole pause in which no fault was read was lost: its message was
  // read by somebody else, or its wake-up went astray. All are woken, fault again, and are counted.
  void check_sleepers(ServedTarget& served);

 private:
  EndQueue& ends_;
};

}  // namespace uffd
