// What an operator would want to know of targets: told by the threads that serve them, to one
// reader.
//
// One for the process. Any thread and any signal handler may write, which neither locks nor
// allocates, and is one load while the journal is shut. An entry for which there is no room is
// counted and dropped: nobody waits for the reader.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>

#include "engine/ending/ending.hpp"
#include "engine/linux/at_fork.hpp"
#include "engine/linux/range.hpp"
#include "engine/target/cause.hpp"

namespace uffd {

enum class News {
  born,        // a fork child is a target from now on; count: its parent
  ended,       // count: pages that were missing
  poisoned,    // the range, for the cause
  stuck,       // the range can be neither supplied nor poisoned: its touchers sleep
  lost_wakes,  // count: threads that slept although nobody was going to wake them; woken
  unguarded,   // no guard holds it, or its fork child: there was no descriptor or process for that
  orphan,      // a fork child of it was born as the manager died; what it misses reads as zeros
  guarded,     // another guard holds it, since the one before has ended
};

struct JournalEntry {
  News news = News::ended;
  uint64_t target = 0;
  uint64_t count = 0;
  Range range = {};
  Cause cause = Cause::asked;
  std::shared_ptr<const EndingReport> report =
      nullptr;  // of News::ended; empty where memory is short
};

class Journal {
 public:
  // By one thread at a time. open() throws SystemError where memory is short.
  void open();
  // The reader reads what is there, and then the end.
  void shut() noexcept;

  bool is_open() const noexcept { return open_.load(std::memory_order_acquire); }
  void write(JournalEntry entry) noexcept;

  // By the one reader. Waits for an entry; empty when the time has passed, or the journal is shut
  // and nothing is left.
  std::optional<JournalEntry> read(std::chrono::nanoseconds limit = kForLong) noexcept;
  // How many entries were dropped since the last call.
  uint64_t take_dropped() noexcept { return dropped_.exchange(0, std::memory_order_relaxed); }

  static constexpr std::chrono::hours kForLong{24 * 365};

 private:
  static constexpr size_t kCapacity = 1024;

  // turn is the number of the entry, from 1 on, when it is whole. The reader leaves no report
  // behind, so that a writer, who may be a signal handler, has none to destroy.
  struct Slot {
    std::atomic<uint64_t> turn{0};
    JournalEntry entry;
  };

  std::optional<JournalEntry> take() noexcept;
  void ring() noexcept;
  // In a fork child, whose other threads may have left entries half written.
  void forget() noexcept;

  std::atomic<bool> open_{false};
  std::atomic<uint32_t> bell_{0};  // a futex, which changes with each entry
  std::atomic<uint64_t> written_{0};
  std::atomic<uint64_t> read_{0};
  std::atomic<uint64_t> dropped_{0};
  std::array<Slot, kCapacity> slots_{};
  std::optional<AtFork> at_fork_;
};

Journal& journal() noexcept;

}  // namespace uffd
