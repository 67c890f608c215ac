// Faults whose page could not be installed yet, and when to try again. A handler's own; never
// allocates.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "engine/linux/syscall.hpp"

namespace uffd {

struct ServedTarget;

class RetryQueue {
 public:
  struct Entry {
    ServedTarget* served;
    uint64_t address;
    uint64_t read_at;  // when its message was read, by CLOCK_MONOTONIC
  };

  // False when it is full: then the fault must be woken, and comes again as a message.
  bool push(const Entry& entry) noexcept {
    if (count_ == entries_.size()) return false;
    if (count_ == 0) due_ = sys::monotonic_ns() + kPauseNs;
    entries_[count_++] = entry;
    return true;
  }

  // For epoll_wait: -1 when there is nothing to try again, else the time until that.
  int timeout_ms() const noexcept {
    if (count_ == 0) return -1;
    const uint64_t now = sys::monotonic_ns();
    return now >= due_ ? 0 : static_cast<int>((due_ - now + 999'999) / 1'000'000);
  }

  // Takes every entry out and tries it, once it is time; an attempt may push again.
  template <typename Attempt>
  void run_due(Attempt attempt) noexcept {
    if (count_ == 0 || sys::monotonic_ns() < due_) return;
    const size_t taken = std::exchange(count_, 0);
    // An attempt pushes at most one entry, and that only after its own was read.
    for (size_t i = 0; i < taken; ++i) attempt(Entry{entries_[i]});
  }

  void forget(const ServedTarget& served) noexcept {
    const auto end = std::remove_if(entries_.begin(), entries_.begin() + count_,
                                    [&](const Entry& entry) { return entry.served == &served; });
    count_ = static_cast<size_t>(end - entries_.begin());
  }

 private:
  static constexpr uint64_t kPauseNs = 1'000'000;

  std::array<Entry, 1024> entries_;
  size_t count_ = 0;
  uint64_t due_ = 0;
};

}  // namespace uffd
