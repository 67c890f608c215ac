// Faults of this process's own memory that are resolved by the thread which touches, in the handler
// of the SIGBUS that UFFD_FEATURE_SIGBUS turns them into: no other thread is woken for them.
//
// What runs in the signal handler neither locks nor allocates, and uses nothing that a thread could
// hold when the signal meets it.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "engine/serve/fault_streams.hpp"
#include "engine/serve/installer.hpp"
#include "engine/serve/stats.hpp"

namespace uffd {

struct ServedTarget;

// Those of one target. Any number of threads fault at once.
class InlineFaults {
 public:
  // The target's sets of pages that are poisoned are made ready for signal handlers.
  explicit InlineFaults(ServedTarget& served);

  // Its userfaultfd is there: faults that came before wait for that.
  void open() noexcept { state_ = State::open; }
  // Faults that come from now on are touched again.
  void close() noexcept { state_ = State::closed; }

  enum class Verdict {
    resolved,  // touch again
    absent,    // its region is not registered there: let go of just now, or other memory by now
    not_mine,  // the address lies in none of its regions
    fatal,     // poisoned, or it can be neither supplied nor poisoned
  };
  // In a signal handler.
  Verdict resolve(uint64_t address) noexcept;

  // Installs what is missing of the range; by a thread, not a signal handler. False where some page
  // of it is poisoned, or cannot be supplied.
  bool install(const Range& range) noexcept;

  void add_to(CountValues& sum) const noexcept;

 private:
  enum class State { opening, open, closed };

  Outcome install(const Region& region, uint64_t page, Counters& counters) noexcept;
  void count(const Counters& counted) noexcept;
  PageRun window(const Region& region, uint64_t page) noexcept;
  void tell_if_settled() noexcept;

  ServedTarget& served_;
  std::atomic<State> state_{State::opening};
  std::array<Counters, 16> counters_;  // a thread adds to one of them, several may to the same
  std::atomic<bool> learning_{false};  // somebody uses the streams: the others do without
};

// The table of the targets of this process that are served inline, and the process's disposition of
// SIGBUS. Any thread may call. In a fork child the table is empty, and SIGBUS is ours still.
namespace inline_targets {

// Takes over SIGBUS with the first. Before its regions are registered. Throws SystemError where
// there are too many.
void add(ServedTarget& served);
// When this returns no signal handler uses the target any more. A thread whose fault it has not
// resolved yet touches again.
void remove(ServedTarget& served) noexcept;

// Where somebody has taken SIGBUS over meanwhile, and a target is served inline: takes it back,
// with theirs for what is not ours. Whether it had to.
bool regain_signal() noexcept;

// Installs what is missing of these ranges in all targets; false as InlineFaults::install.
bool install(const Range& range) noexcept;

}  // namespace inline_targets

}  // namespace uffd
