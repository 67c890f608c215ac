// Where a target stands between its first fault and its report, and the one reason why it ends.
//
//   serving   its handler reads its messages and resolves its faults; others may take leases
//   leaving   an ending is decided and leases are revoked; the handler serves on until the last is
//             back
//   ending    the handler has let go: the ender is the only user of the target
//   stopped   keep-open, stopped by its user: the userfaultfd is open and nobody serves it
//   ended     the userfaultfd is closed, and the report is there
//
// The handler's thread decides (serving -> leaving) and hands over (leaving -> ending); the ender
// finishes (ending -> stopped or ended). Any thread may look and wait.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <utility>

#include "engine/ending/ending.hpp"

namespace uffd {

enum class Stage { serving, leaving, ending, stopped, ended };

// Why a target ends. The first that is decided stands.
enum class EndReason {
  complete,   // nothing is missing any more
  asked,      // its user closes it, whatever is missing
  discarded,  // nobody can touch its memory any more
  gone,       // its address space is no more
  unserved,   // there was no descriptor to serve this fork child with; what it misses is poisoned
  stopped,    // its user takes the userfaultfd back, open
};

class Lifecycle {
 public:
  Stage stage() const noexcept { return stage_.load(std::memory_order_acquire); }
  // Whether the handler still has the target.
  bool is_served() const noexcept { return stage() <= Stage::leaving; }
  // Whether the target is stopped or ended.
  bool is_over() const noexcept { return stage() >= Stage::stopped; }

  // By the handler.
  void decide(EndReason reason) {
    if (stage() != Stage::serving) return;
    reason_ = reason;
    move_to(Stage::leaving);
  }
  void hand_over() { move_to(Stage::ending); }
  // By the handler and the ender, once an ending is decided.
  EndReason reason() const noexcept { return reason_; }

  // By the ender; by the handler for a fork child that it could not take in charge.
  void finish(Stage stage, std::optional<EndingReport> report) {
    {
      const std::lock_guard lock(mutex_);
      report_ = std::move(report);
    }
    move_to(stage);
  }

  // Wakes the waiters, when something has changed that they look at besides the stage: tried_all(),
  // or the number of missing pages.
  void notify() {
    {
      const std::lock_guard lock(mutex_);
    }
    changed_.notify_all();
  }
  // Whether the fill, or the poisoning, that was asked for last has tried every page.
  bool tried_all() const noexcept { return tried_all_.load(std::memory_order_acquire); }
  void set_tried_all(bool tried) {
    tried_all_.store(tried, std::memory_order_release);
    if (tried) notify();
  }

  std::optional<EndingReport> report() const {
    const std::lock_guard lock(mutex_);
    return report_;
  }

  // Whether the condition came true in time.
  template <typename Condition>
  bool wait(std::chrono::milliseconds timeout, Condition condition) const {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, timeout, condition);
  }
  void wait_until_over() const {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return is_over(); });
  }

 private:
  void move_to(Stage stage) {
    {
      const std::lock_guard lock(mutex_);
      stage_.store(stage, std::memory_order_release);
    }
    changed_.notify_all();
  }

  std::atomic<Stage> stage_{Stage::serving};
  std::atomic<bool> tried_all_{false};
  EndReason reason_ = EndReason::complete;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::optional<EndingReport> report_;
};

}  // namespace uffd
