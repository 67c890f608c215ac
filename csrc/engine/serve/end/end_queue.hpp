// What handlers ask of the ender.
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <utility>

#include "engine/serve/served/served_target.hpp"

namespace uffd {

// Handlers push; the ender pops.
class EndQueue {
 public:
  static constexpr unsigned kEnd = 1;       // the target is the ender's: end it
  static constexpr unsigned kComplete = 2;  // an endless target is complete; it is served on

  void push(ServedTarget& served, unsigned asked) noexcept {
    {
      const std::lock_guard lock(mutex_);
      queue_.push(served.shared_from_this(), asked);
    }
    filled_.notify_one();
  }

  // By the ender, when it is done with what it popped before. Waits; empty when the queue was shut
  // and is drained.
  std::pair<std::shared_ptr<ServedTarget>, unsigned> pop() {
    std::unique_lock lock(mutex_);
    busy_ = false;
    if (queue_.empty()) idle_.notify_all();
    filled_.wait(lock, [this] { return shut_ || !queue_.empty(); });
    busy_ = true;
    return queue_.pop();
  }

  // Returns when all that was pushed before is done; whether that was anything.
  bool await_idle() {
    std::unique_lock lock(mutex_);
    const auto is_idle = [this] { return !busy_ && queue_.empty(); };
    if (is_idle()) return false;
    idle_.wait(lock, is_idle);
    return true;
  }

  // The time between two attempts of the ender at something that must be tried again.
  void pause(std::chrono::microseconds time) {
    std::unique_lock lock(mutex_);
    filled_.wait_for(lock, time, [this] { return shut_; });
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
  std::condition_variable filled_, idle_;
  TargetQueue<&ServedTarget::in_end_queue> queue_;
  bool busy_ = false;  // the ender works on what it popped
  bool shut_ = false;
};

}  // namespace uffd
