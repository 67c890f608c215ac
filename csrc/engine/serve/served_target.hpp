// A target while a manager serves it: with its counters, and where it stands between the first
// fault and its report.
//
// One handler and any number of fillers serve it; the ender alone ends it. Owned by its manager and
// by the user's handle; a fork child's by its parent too.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <vector>

#include "engine/ending/ending.hpp"
#include "engine/linux/dma_latency.hpp"
#include "engine/linux/fd.hpp"
#include "engine/linux/fork_hole.hpp"
#include "engine/serve/adoption.hpp"
#include "engine/serve/event_gate.hpp"
#include "engine/serve/fault_streams.hpp"
#include "engine/serve/inline_faults.hpp"
#include "engine/serve/local_memory.hpp"
#include "engine/serve/stats.hpp"
#include "engine/target/target.hpp"

namespace uffd {

class Handler;

enum class Stage {
  serving,
  stopped,  // keep-open, stopped by its user: the userfaultfd stays open, nobody serves
  ended,    // the userfaultfd is closed and the report is there
};

struct ServedTarget : std::enable_shared_from_this<ServedTarget> {
  ServedTarget(RegionTable regions, pid_t pid, Ending how, std::optional<uint32_t> window,
               bool look, size_t fillers);
  // A fork child's, which goes on as its parent.
  ServedTarget(const ServedTarget& forker, Userfaultfd uffd);

  // Without end: nothing but its user, or its death, ends it.
  bool endless() const noexcept {
    return ending == Ending::keep_open || target.written() != nullptr;
  }
  bool settled() const noexcept {
    return target.residency().missing() == 0 || gone.load(std::memory_order_relaxed);
  }
  // Held by whoever installs, but the handler. No lock of a target without event features.
  std::shared_lock<EventGate> installing() const {
    return living ? std::shared_lock(gate) : std::shared_lock(gate, std::defer_lock);
  }

  Target target;
  const uint64_t id;
  const Ending ending;
  const std::optional<uint32_t> fault_around;  // pages; empty: it learns
  const bool verify;                           // look at smaps after the ending
  bool collapse = false;                       // into huge pages, after the ending
  bool living = false;                         // it has event features; constant once it is served
  mutable EventGate gate;

  std::weak_ptr<ServedTarget> parent;           // of a fork child
  std::unique_ptr<Adoption> adoption;           // under Placement::adopt
  std::optional<DmaLatency> awake;              // while it is served, where that was asked for
  std::unique_ptr<InlineFaults> inline_faults;  // where its threads resolve their faults themselves
  std::unique_ptr<ForkHole> fork_hole;          // of memory of this process; the same
  std::optional<Cpu> handler_cpu;               // of its handler, where that is held to one
  bool kept_awake = false;                      // it has, or had, awake
  Handler* handler = nullptr;                   // set before it serves, then constant
  Fd process;                                   // of another process, as a pidfd; the same
  Counters handler_counters;                    // the handler's; once that has let go, the ender's
  LatencyHistogram latency;                     // the handler's
  FaultStreams streams;                         // the handler's
  Counters ender_counters;                      // the ender's
  std::vector<Counters> filler_counters;        // one each

  uint64_t watched_sleepers = 0;  // at the watchdog's last look; the handler's
  uint64_t watched_faults = 0;    // how many had been read then; the handler's

  std::mutex using_uffd;                         // held by fetchers, and users, while they do
  bool uffd_let_go = false;                      // under it: they come too late
  Counters fetcher_counters;                     // under it
  std::atomic<uint64_t> outstanding_fetches{0};  // asked for and not installed yet
  std::atomic<bool> unserved{false};             // no descriptor was left for this fork child

  std::atomic<bool> filling{false};  // a fill of it is under way
  std::atomic<bool> gone{false};     // its address space is no more
  std::atomic<bool> closing{false};  // its user closes it
  std::atomic<bool> end_announced{
      false};  // nothing is missing any more, or gone: the ender was told

  std::atomic<Stage> stage{Stage::serving};  // written by the ender, under mutex

  bool detached = false;  // its fillers let go of it for good; under the fill pool's mutex

  mutable std::mutex mutex;
  std::condition_variable changed;  // of stage, and of what stands below
  bool tried_all =
      false;  // a fill or a poisoning has tried every page since the last was asked for
  std::optional<EndingReport> report;
  std::deque<std::shared_ptr<ServedTarget>> children;  // forked off: all that live, and the last
  std::shared_ptr<LocalMemory> local_memory;           // until nothing is missing
};

// Notes a fork child, and forgets the first of those that ended long ago.
void add_child(ServedTarget& parent, std::shared_ptr<ServedTarget> child);
std::vector<std::shared_ptr<ServedTarget>> children(const ServedTarget& parent);

Stats collect_stats(const ServedTarget& served);
uint64_t count(const ServedTarget& served, Count which);

}  // namespace uffd
