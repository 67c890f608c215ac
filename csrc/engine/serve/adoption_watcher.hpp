// A process of its own that gives threads their masks back when the manager's process is killed: it
// holds the ledger of them, and waits for that process to end.
#pragma once

#include <string>
#include <vector>

#include "engine/linux/fd.hpp"
#include "engine/serve/adoption_ledger.hpp"

namespace uffd {

class AdoptionWatcher {
 public:
  // Runs the command with the number of a descriptor of this process, of the ledger, and of two
  // eventfds behind it; the command calls watch_adoptions() with them. Waits until it watches.
  // Throws SystemError.
  AdoptionWatcher(const std::vector<std::string>& command, const AdoptionLedger& ledger);
  AdoptionWatcher(const AdoptionWatcher&) = delete;
  AdoptionWatcher& operator=(const AdoptionWatcher&) = delete;
  ~AdoptionWatcher();  // ends it, and waits for that

  pid_t pid() const noexcept { return child_; }

 private:
  WakeFd done_, ready_;
  pid_t child_ = 0;
};

// In the watcher: signals ready, and returns when the process has ended, or the eventfd was
// signalled, and every mask that the ledger tells of was given back.
void watch_adoptions(Fd process, Fd ledger, Fd done, Fd ready);

}  // namespace uffd
