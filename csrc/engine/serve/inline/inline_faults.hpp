// Faults of this process's own memory that are resolved by the thread which touches, in the handler
// of the SIGBUS that UFFD_FEATURE_SIGBUS turns them into: no other thread is woken for them.
//
// What runs in the signal handler neither locks nor allocates, and waits for nothing that the
// interrupted thread could hold.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "engine/serve/fault/fault_streams.hpp"
#include "engine/serve/fault/installer.hpp"
#include "engine/serve/served/stats.hpp"

namespace uffd {

struct ServedTarget;

// The inline faults of one target. Any number of threads fault at once. Owned by the ServedTarget.
class InlineFaults {
 public:
  // Makes the target's set of poisoned pages ready for signal handlers.
  explicit InlineFaults(ServedTarget& served);

  // The target has its userfaultfd now: faults that came before wait for this call.
  void open() noexcept { state_ = State::open; }
  // From now on resolve() installs nothing, and has the memory touched again.
  void close() noexcept { state_ = State::closed; }

  enum class Verdict {
    resolved,  // touch again
    absent,    // its region is not registered there: let go of just now, or other memory by now
    not_mine,  // the address lies in none of its regions
    fatal,     // poisoned, or it can be neither supplied nor poisoned
  };
  // In a signal handler.
  Verdict resolve(uint64_t address) noexcept;

  // Installs the missing pages of the range; by a thread, not a signal handler. False where some
  // page of the range is poisoned, or cannot be supplied.
  bool install(const Range& range) noexcept;

 private:
  enum class State { opening, open, closed };

  Outcome install(const Region& region, uint64_t page, Counters& counters) noexcept;
  PageRun window(const Region& region, uint64_t page) noexcept;
  void tell_if_settled() noexcept;

  ServedTarget& served_;
  std::atomic<State> state_{State::opening};
  FaultStreams streams_;               // of the thread that has set learning_
  std::atomic<bool> learning_{false};  // a thread uses the streams: the others do without
};

}  // namespace uffd
