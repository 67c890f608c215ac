#include "engine/serve/served/journal.hpp"

#include <utility>

#include "engine/linux/futex.hpp"

namespace uffd {

void Journal::open() {
  if (!at_fork_) {
    at_fork_.emplace(AtFork::Level::journal, this,
                     AtFork::Hooks{.in_child = [](void* self) noexcept {
                       static_cast<Journal*>(self)->forget();
                     }});
  }
  open_.store(true, std::memory_order_release);
}

void Journal::shut() noexcept {
  open_.store(false, std::memory_order_release);
  ring();
}

void Journal::write(JournalEntry entry) noexcept {
  if (!is_open()) return;
  uint64_t number = 0;
  do {
    // In this order: what was read before had been written before.
    const uint64_t read = read_.load(std::memory_order_acquire);
    number = written_.load(std::memory_order_relaxed);
    if (number - read >= kCapacity) {
      dropped_.fetch_add(1, std::memory_order_relaxed);
      return;
    }
  } while (!written_.compare_exchange_weak(number, number + 1, std::memory_order_relaxed));
  Slot& slot = slots_[number % kCapacity];
  slot.entry = std::move(entry);
  slot.turn.store(number + 1, std::memory_order_release);
  ring();
}

std::optional<JournalEntry> Journal::take() noexcept {
  const uint64_t number = read_.load(std::memory_order_relaxed);
  Slot& slot = slots_[number % kCapacity];
  if (slot.turn.load(std::memory_order_acquire) != number + 1) return std::nullopt;
  JournalEntry entry = std::exchange(slot.entry, JournalEntry{});
  read_.store(number + 1, std::memory_order_release);
  return entry;
}

std::optional<JournalEntry> Journal::read(std::chrono::nanoseconds limit) noexcept {
  const uint64_t end = sys::monotonic_ns() + static_cast<uint64_t>(limit.count());
  for (;;) {
    const uint32_t bell = bell_.load(std::memory_order_acquire);
    const bool open = is_open();
    if (auto entry = take()) return entry;
    if (!open || sys::monotonic_ns() >= end) return std::nullopt;
    futex::wait_until(bell_, bell, end);
  }
}

void Journal::ring() noexcept {
  bell_.fetch_add(1, std::memory_order_release);
  futex::wake(bell_);
}

void Journal::forget() noexcept {
  open_ = false;
  written_ = read_ = dropped_ = 0;
  for (Slot& slot : slots_) slot.turn = 0;
}

namespace {

// Made when the library is loaded, and never destroyed: threads write to the end of the process.
Journal& the_journal = *new Journal;

}  // namespace

Journal& journal() noexcept {
  return the_journal;
}

}  // namespace uffd
