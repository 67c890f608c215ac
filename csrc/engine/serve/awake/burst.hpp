// Whether faults come in a burst, and whether it pays to keep idle CPUs awake meanwhile. One
// handler's; looks at no clock.
//
// The time from the resolving of a fault to the next message is what a thread takes to wake up, to
// compute and to fault again, and what the handler takes to wake up if it slept. In a burst that
// time is short, time after time. The handler then keeps CPUs awake, and compares: while that takes
// a quarter off the time it goes on, else it is left off for twice as many looks as the time
// before. Every now and then it is left off for a moment, and compared again.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

namespace uffd {

class Burst {
 public:
  // A burst is over when no message came for so long.
  static constexpr uint64_t kQuietNs = 1'000'000;

  enum class Change { none, begins, ends };

  // Messages were read, after the handler had slept or not, and their faults are resolved.
  Change served(uint64_t read_at, uint64_t done_at, bool slept) noexcept {
    const uint64_t gap = read_at - std::exchange(done_at_, done_at);
    if (gap >= kQuietNs) return end();
    if (std::exchange(skip_, false)) return Change::none;
    sum_ns_ += gap;
    sleeps_ += slept;
    if (++gaps_ < (awake_ ? kGapsAwake : kGapsBefore)) return Change::none;
    const Mean mean{sum_ns_ / gaps_,
                    static_cast<double>(gaps_ + sleeps_) / static_cast<double>(gaps_)};
    forget_gaps();
    return awake_ ? compare(mean) : consider(mean);
  }

  // No message came for kQuietNs, or the handler is going to sleep. A burst that was too short to
  // compare did not pay.
  Change end() noexcept {
    forget_gaps();
    if (!awake_) return Change::none;
    if (looks_ == 0) leave_off();
    awake_ = false;
    return Change::ends;
  }
  // The handler's CPU is wanted by others: keeping it is not for this burst.
  Change give_up() noexcept {
    if (awake_ && looks_ > 0) leave_off();
    return end();
  }

  bool awake() const noexcept { return awake_; }
  // By how much the waking of one CPU takes longer where it is idle than where it is kept awake; 0
  // until that is known.
  uint64_t wake_ns() const noexcept { return wake_ns_; }

 private:
  struct Mean {
    uint64_t gap_ns;
    double wakes;  // a gap: the thread's, and the handler's where it slept
  };

  Change consider(Mean mean) noexcept {
    if (pause_ > 0) {
      --pause_;
      return Change::none;
    }
    if (mean.gap_ns < kWorthNs) return Change::none;
    before_ = mean;
    awake_ = skip_ = true;
    looks_ = 0;
    return Change::begins;
  }

  Change compare(Mean mean) noexcept {
    const bool pays = mean.gap_ns <= before_.gap_ns - before_.gap_ns / 4;
    if (pays) {
      const auto saved = static_cast<double>(before_.gap_ns - mean.gap_ns);
      learn(static_cast<uint64_t>(saved / before_.wakes));
      last_pause_ /= 2;
      if (++looks_ < kLooks) return Change::none;
    } else {
      leave_off();
    }
    awake_ = false;
    skip_ = true;
    return Change::ends;
  }

  void leave_off() noexcept {
    last_pause_ = std::clamp<uint64_t>(2 * last_pause_, 1, kLongestPause);
    pause_ = last_pause_;
  }

  void learn(uint64_t wake_ns) noexcept {
    wake_ns_ = wake_ns_ == 0 ? wake_ns : wake_ns_ + wake_ns / 8 - wake_ns_ / 8;
  }

  void forget_gaps() noexcept { sum_ns_ = gaps_ = sleeps_ = 0; }

  static constexpr uint64_t kGapsBefore = 8, kGapsAwake = 64;
  static constexpr uint64_t kLooks = 256;      // at kGapsAwake gaps, before it is compared again
  static constexpr uint64_t kWorthNs = 6'000;  // a shorter gap has no idle CPU in it
  static constexpr uint64_t kLongestPause = 1 << 12;

  uint64_t done_at_ = 0;
  uint64_t sum_ns_ = 0, gaps_ = 0, sleeps_ = 0;
  uint64_t pause_ = 0, last_pause_ = 0;  // looks at kGapsBefore gaps
  uint64_t looks_ = 0;
  uint64_t wake_ns_ = 0;
  Mean before_{};
  bool awake_ = false;
  bool skip_ = false;  // the next gap, in which CPUs only begin to be kept awake
};

}  // namespace uffd
