// The watcher: a process of its own that gives threads their masks back when the manager's process
// is killed. It holds the ledger of adopted threads, and waits for the manager's process to end.
#pragma once

#include <string>
#include <vector>

#include "engine/linux/fd.hpp"
#include "engine/serve/adoption/adoption_ledger.hpp"

namespace uffd {

class AdoptionWatcher {
 public:
  // Runs the command with four descriptor numbers as its last arguments: a pidfd of this process,
  // the ledger, and two eventfds; the command calls watch_adoptions() with them. Waits until the
  // watcher watches. Throws SystemError.
  AdoptionWatcher(const std::vector<std::string>& command, const AdoptionLedger& ledger);
  AdoptionWatcher(const AdoptionWatcher&) = delete;
  AdoptionWatcher& operator=(const AdoptionWatcher&) = delete;
  ~AdoptionWatcher();  // ends the watcher, and waits for that

  pid_t pid() const noexcept { return child_; }

 private:
  WakeFd done_, ready_;
  pid_t child_ = 0;
};

// In the watcher: signals ready, waits until the process has ended or done was signalled, gives
// every mask back that the ledger tells of, and returns.
void watch_adoptions(Fd process, Fd ledger, Fd done, Fd ready);

}  // namespace uffd
