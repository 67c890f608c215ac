// What handlers, fillers and users ask of the ender.
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "engine/serve/served_target.hpp"

namespace uffd {

enum class EndRequest {
  settled,  // nothing is missing any more, or the address space is gone
  poison,   // poison what is missing, and so settle it
  end,      // end now: pages that are missing read as zeros from then on
  discard,  // end without a look: nobody can touch this memory any more
  stop,     // stop serving, keep the userfaultfd open
};

// Any thread pushes; the ender pops.
class EndQueue {
 public:
  struct Entry {
    std::shared_ptr<ServedTarget> served;  // what was asked for twice outlives its ending
    EndRequest request;
  };

  void push(ServedTarget& served, EndRequest request) {
    {
      const std::lock_guard lock(mutex_);
      entries_.push_back({served.shared_from_this(), request});
    }
    filled_.notify_one();
  }

  // Once in a target's life, by whichever thread settled its last page.
  void announce(ServedTarget& served) {
    if (!served.end_announced.exchange(true)) push(served, EndRequest::settled);
  }

  void announce_if_settled(ServedTarget& served) {
    if (served.settled()) announce(served);
  }

  // Waits; empty when the queue was shut and is drained.
  std::vector<Entry> pop_all() {
    std::unique_lock lock(mutex_);
    filled_.wait(lock, [this] { return shut_ || !entries_.empty(); });
    return std::exchange(entries_, {});
  }

  // The time between two attempts of the ender at something that the kernel says to try again.
  void pause() {
    std::unique_lock lock(mutex_);
    filled_.wait_for(lock, std::chrono::milliseconds(1), [this] { return shut_; });
  }

  void shut() {
    {
      const std::lock_guard lock(mutex_);
      shut_ = true;
    }
    filled_.notify_one();
  }

 private:
  std::mutex mutex_;
  std::condition_variable filled_;
  std::vector<Entry> entries_;
  bool shut_ = false;
};

}  // namespace uffd
