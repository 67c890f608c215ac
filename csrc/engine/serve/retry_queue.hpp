// What a handler must come back to, and when: faults that met EAGAIN, pages whose source has a
// deadline, FORK events for which there was no descriptor. A handler's own; for a fault it never
// allocates.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "engine/linux/syscall.hpp"

namespace uffd {

struct ServedTarget;

enum class RetryKind : uint8_t {
  fault,      // place is its key
  deadline,   // place is a page number: when it is due and missing, it is poisoned
  read,       // messages are queued that could not be read
  unwatched,  // epoll has no room for its userfaultfd
};

class RetryQueue {
 public:
  static constexpr uint64_t kPauseNs = 1'000'000;

  struct Entry {
    ServedTarget* served;
    RetryKind kind;
    uint64_t place;
    uint64_t read_at;  // when its message was read, by CLOCK_MONOTONIC
    uint64_t due;      // by the same
  };

  RetryQueue() { entries_.reserve(kFaults); }

  // False when it is full: then the fault must be woken, and comes again as a message.
  bool push_fault(ServedTarget& served, uint64_t key, uint64_t read_at) noexcept {
    if (entries_.size() >= kFaults) return false;
    push({&served, RetryKind::fault, key, read_at, sys::monotonic_ns() + kPauseNs});
    return true;
  }

  void push(const Entry& entry) {
    entries_.push_back(entry);
    std::push_heap(entries_.begin(), entries_.end(), later);
  }

  bool empty() const noexcept { return entries_.empty(); }

  // For epoll_wait: -1 when there is nothing to come back to, else the time until that.
  int timeout_ms() const noexcept {
    if (entries_.empty()) return -1;
    const uint64_t now = sys::monotonic_ns(), due = entries_.front().due;
    constexpr uint64_t longest_ms = 60'000;
    return now >= due ? 0
                      : static_cast<int>(std::min((due - now + 999'999) / 1'000'000, longest_ms));
  }

  // Takes out the next entry that is due.
  std::optional<Entry> pop_due(uint64_t now) noexcept {
    if (entries_.empty() || entries_.front().due > now) return std::nullopt;
    std::pop_heap(entries_.begin(), entries_.end(), later);
    const Entry entry = entries_.back();
    entries_.pop_back();
    return entry;
  }

  // Makes this target's faults due; whether there is any.
  bool hasten(const ServedTarget& served) noexcept {
    bool any = false;
    for (Entry& entry : entries_) {
      if (entry.served != &served || entry.kind != RetryKind::fault) continue;
      entry.due = 0;
      any = true;
    }
    if (any) std::make_heap(entries_.begin(), entries_.end(), later);
    return any;
  }

  void forget(const ServedTarget& served) noexcept {
    std::erase_if(entries_, [&](const Entry& entry) { return entry.served == &served; });
    std::make_heap(entries_.begin(), entries_.end(), later);
  }

 private:
  static constexpr size_t kFaults = 1024;

  static bool later(const Entry& a, const Entry& b) noexcept { return a.due > b.due; }

  std::vector<Entry> entries_;  // a heap: the next that is due first
};

}  // namespace uffd
