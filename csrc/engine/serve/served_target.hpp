// A target while a manager serves it: with its counters, and where it stands between the first
// fault and its report.
//
// One handler and any number of fillers serve it; the ender alone ends it. Owned by its manager and
// by the user's handle.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "engine/ending/ending.hpp"
#include "engine/linux/fd.hpp"
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
  ServedTarget(RegionTable regions, pid_t pid, Ending how, uint32_t window, bool look,
               size_t fillers)
      : target(std::move(regions), pid),
        ending(how),
        fault_around(window),
        verify(look),
        filler_counters(fillers) {}

  Target target;
  const Ending ending;
  const uint32_t fault_around;  // pages
  const bool verify;            // look at smaps after the ending

  LocalMemory local_memory;               // until nothing is missing
  Handler* handler = nullptr;             // set before it serves, then constant
  Fd process;                             // of another process, as a pidfd; the same
  Counters handler_counters;              // the handler's
  LatencyHistogram latency;               // the handler's
  Counters ender_counters;                // the ender's
  std::vector<Counters> filler_counters;  // one each

  uint64_t watched_sleepers = 0;  // at the watchdog's last look; the handler's
  uint64_t watched_faults = 0;    // how many had been read then; the handler's

  std::atomic<bool> in_service{false};  // a batch of faults is being resolved: fillers yield
  std::atomic<bool> gone{false};        // its address space is no more
  std::atomic<bool> end_announced{
      false};  // nothing is missing any more, or gone: the ender was told

  std::atomic<Stage> stage{Stage::serving};  // written by the ender, under mutex

  bool detached = false;  // its fillers let go of it for good; under the fill pool's mutex

  mutable std::mutex mutex;
  std::condition_variable changed;  // of stage, and of what stands below
  bool tried_all =
      false;  // a fill or a poisoning has tried every page since the last was asked for
  std::optional<EndingReport> report;
};

Stats collect_stats(const ServedTarget& served);
uint64_t count(const ServedTarget& served, Count which);

}  // namespace uffd
