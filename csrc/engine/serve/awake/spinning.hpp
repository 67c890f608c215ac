// Whether a handler looks again and again for the next fault before it sleeps, and for how long.
// One thread's.
//
// Spinning saves the waking of an idle CPU where the next fault comes soon after the last, and
// burns a CPU where it does not. It lasts twice as long as finds usually took: what a thread takes
// to wake up and to fault again differs by host from 5 to 200 us. Each time that it was in vain it
// is left off for twice as many waits as the time before, and then lasts twice as long.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "engine/linux/syscall.hpp"

namespace uffd {

class Spinning {
 public:
  static constexpr uint64_t kFirstNs = 50'000;
  static constexpr uint64_t kLongestNs = 1'000'000;

  // longest_ns: at least kFirstNs.
  explicit Spinning(uint64_t longest_ns = kLongestNs) noexcept : longest_ns_(longest_ns) {}

  // Calls look() until it returns something other than 0, or the time for spinning is over: then 0.
  template <typename Look>
  auto spin(Look&& look) noexcept -> decltype(look()) {
    const uint64_t budget = budget_ns();
    if (budget == 0) {
      spun_ns_ = 0;
      return 0;
    }
    const auto found = spin_for(budget, look);
    if (found == 0) {
      in_vain();
      if (!crowded_) budget_ns_ = std::min(2 * budget_ns_, longest_ns_);
    } else if (crowded_) {
      in_vain();
    } else {
      found_after(spun_ns_);
    }
    return found;
  }

  // The same for a given time, from which nothing is learned.
  template <typename Look>
  auto spin_for(uint64_t nanoseconds, Look&& look) noexcept -> decltype(look()) {
    const uint64_t begin = sys::monotonic_ns();
    spun_ns_ = longest_look_ns_ = 0;
    for (uint64_t looks = 1;; ++looks) {
      const auto found = look();
      const uint64_t spun = sys::monotonic_ns() - begin;
      longest_look_ns_ = std::max(longest_look_ns_, spun - std::exchange(spun_ns_, spun));
      if (found != 0 || spun >= nanoseconds) {
        crowded_ = spun > looks * kAloneNs;
        return found;
      }
      ::sched_yield();
    }
  }

  // Of the last spin: how long it took, and the longest of its looks, before which another thread
  // may have had this CPU.
  uint64_t spun_ns() const noexcept { return spun_ns_; }
  uint64_t longest_look_ns() const noexcept { return longest_look_ns_; }

 private:
  uint64_t budget_ns() noexcept {
    if (pause_ > 0) {
      --pause_;
      return 0;
    }
    return budget_ns_;
  }

  void found_after(uint64_t nanoseconds) noexcept {
    usual_ns_ += nanoseconds / 8 - usual_ns_ / 8;
    budget_ns_ = std::clamp(2 * usual_ns_, kShortestNs, longest_ns_);
    if (last_pause_ > 0 && ++found_ % kForgiving == 0) last_pause_ /= 2;
  }

  void in_vain() noexcept {
    last_pause_ = std::clamp<uint64_t>(2 * last_pause_, 1, kLongestPause);
    pause_ = last_pause_;
    usual_ns_ = std::max(usual_ns_, kFirstNs / 2);
    budget_ns_ = std::max(budget_ns_, kFirstNs);
  }

  static constexpr uint64_t kShortestNs = 5'000;
  // What a look takes at most where no other thread wants this CPU.
  static constexpr uint64_t kAloneNs = 1'500;
  static constexpr uint64_t kLongestPause = 1 << 16;  // waits
  static constexpr uint64_t kForgiving = 16;          // finds that halve the next pause

  const uint64_t longest_ns_;
  uint64_t usual_ns_ = kFirstNs / 2, budget_ns_ = kFirstNs;
  uint64_t pause_ = 0, last_pause_ = 0;  // waits
  uint64_t found_ = 0;
  uint64_t spun_ns_ = 0, longest_look_ns_ = 0;
  // Another thread wanted this CPU: often the one that faults next, and the handler should have
  // slept.
  bool crowded_ = false;
};

}  // namespace uffd
