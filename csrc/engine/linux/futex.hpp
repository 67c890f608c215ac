// A thread sleeps until a word changes. Waking is safe in signal handlers.
#pragma once

#include <linux/futex.h>

#include <atomic>
#include <climits>

#include "engine/linux/syscall.hpp"

namespace uffd::futex {

// Sleeps while the word has this value, until the time by CLOCK_MONOTONIC; may return early.
inline void wait_until(const std::atomic<uint32_t>& word, uint32_t value,
                       uint64_t nanoseconds) noexcept {
  const timespec end{static_cast<time_t>(nanoseconds / 1'000'000'000),
                     static_cast<long>(nanoseconds % 1'000'000'000)};
  ::syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, value, &end, nullptr,
            FUTEX_BITSET_MATCH_ANY);
}

// Sleeps while the word has this value; may return early.
inline void wait(const std::atomic<uint32_t>& word, uint32_t value) noexcept {
  ::syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}

// Wakes all who wait. To be called after the word was changed.
inline void wake(std::atomic<uint32_t>& word) noexcept {
  ::syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace uffd::futex
