// Whether a handler looks again and again for the next fault before it sleeps, and for how long.
// One thread's.
//
// Spinning saves the waking of an idle CPU where the next fault comes soon after the last, and
// burns a CPU where it does not. It lasts twice as long as finds usually took, and at most
// kLongestNs; each time that it was in vain it is left off for twice as many waits as the time
// before.
#pragma once

#include <algorithm>
#include <cstdint>

#include "engine/linux/syscall.hpp"

namespace uffd {

class Spinning {
 public:
  static constexpr uint64_t kLongestNs = 50'000;

  // Calls look() until it returns something other than 0, or the time for spinning is over: then 0.
  template <typename Look>
  auto spin(Look&& look) noexcept -> decltype(look()) {
    const uint64_t budget = budget_ns();
    if (budget == 0) return 0;
    const uint64_t begin = sys::monotonic_ns();
    for (uint64_t looks = 1;; ++looks) {
      const auto found = look();
      const uint64_t spun = sys::monotonic_ns() - begin;
      if (found != 0) {
        spun > looks* kAloneNs ? in_vain() : found_after(spun);
        return found;
      }
      if (spun >= budget) break;
      ::sched_yield();
    }
    in_vain();
    return 0;
  }

 private:
  uint64_t budget_ns() noexcept {
    if (pause_ > 0) {
      --pause_;
      return 0;
    }
    return std::clamp(2 * usual_ns_, kShortestNs, kLongestNs);
  }

  void found_after(uint64_t nanoseconds) noexcept {
    usual_ns_ += nanoseconds / 8 - usual_ns_ / 8;
    if (last_pause_ > 0 && ++found_ % kForgiving == 0) last_pause_ /= 2;
  }

  void in_vain() noexcept {
    last_pause_ = std::clamp<uint64_t>(2 * last_pause_, 1, kLongestPause);
    pause_ = last_pause_;
    usual_ns_ = kLongestNs / 2;
  }

  static constexpr uint64_t kShortestNs = 5'000;
  // What a look takes at most where no other thread wants this CPU. Where one does, it is often the
  // thread that faults next, and the handler should have slept.
  static constexpr uint64_t kAloneNs = 1'500;
  static constexpr uint64_t kLongestPause = 1 << 16;  // waits
  static constexpr uint64_t kForgiving = 16;          // finds that halve the next pause

  uint64_t usual_ns_ = kLongestNs / 2;
  uint64_t pause_ = 0, last_pause_ = 0;  // waits
  uint64_t found_ = 0;
};

}  // namespace uffd
