// Keeps installs and the events of a living target apart: between looking up a page and marking it
// installed no event may be read and applied, or dropped bytes come back from the dead.
//
// The handler (then the ender) holds the gate alone while it reads and applies events; any other
// thread shares it while it installs. The handler's own installs need no lock. A thread that waits
// to hold the gate alone is let in before threads that come later. Targets without event features
// take no lock at all.
#pragma once

#include <mutex>
#include <shared_mutex>

namespace uffd {

class EventGate {
 public:
  void lock() {
    const std::lock_guard turn(turnstile_);
    gate_.lock();
  }
  void unlock() { gate_.unlock(); }
  void lock_shared() {
    {
      const std::lock_guard turn(turnstile_);
    }
    gate_.lock_shared();
  }
  void unlock_shared() { gate_.unlock_shared(); }

 private:
  std::mutex turnstile_;
  std::shared_mutex gate_;
};

}  // namespace uffd
