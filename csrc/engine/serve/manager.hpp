// Handlers, fillers and an ender over many targets; their ordered start and shutdown.
//
// Any thread may call any function; those that wait say so. The threads belong to the process that
// made the manager: in a fork child it must neither be used nor destroyed.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <stdexcept>
#include <vector>

#include "engine/serve/adoption_watcher.hpp"
#include "engine/serve/ender.hpp"
#include "engine/serve/fill_pool.hpp"
#include "engine/serve/handler.hpp"
#include "engine/serve/install_choice.hpp"
#include "engine/serve/placement.hpp"
#include "engine/serve/roster.hpp"
#include "engine/serve/served_target.hpp"

namespace uffd {

// What close() does about missing pages.
enum class Missing { raise, fill, zero, poison };

// close(Missing::raise) met missing pages; the target is served on.
class MissingPagesError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct ManagerOptions {
  size_t handlers = 1;
  size_t fillers = 1;
  PlacementOptions placement = {};
  // What runs a watcher of adopted threads: see AdoptionWatcher. Of Placement::adopt.
  std::vector<std::string> watcher = {};
};

struct TargetOptions {
  pid_t pid = 0;  // 0, or this process's own: this process
  Ending ending = Ending::automatic;
  std::optional<uint32_t> fault_around = {};  // pages; empty: it learns
  bool registered = false;                    // by its sender
  bool verify = true;
  bool inline_faults = false;  // its threads resolve their faults themselves: see InlineFaults
  Install install = Install::automatic;
  bool collapse = false;  // into huge pages, after the ending
  bool awake = false;     // while it is served, idle CPUs sleep lightly: /dev/cpu_dma_latency at 0
};

class Manager {
 public:
  explicit Manager(const ManagerOptions& options);
  ~Manager();  // fills what is missing first, and waits for that

  // Registers the regions unless options.registered, and serves. Takes the userfaultfd only when it
  // returns; throws std::invalid_argument, SystemError or UnsupportedError that names the wrong
  // value, and leaves no region registered.
  std::shared_ptr<ServedTarget> add(Userfaultfd& uffd, std::vector<Region> regions,
                                    const TargetOptions& options);

  void fill(ServedTarget& served);
  // What fill() and stop() refuse, for a target whose manager may have ended with it. They throw
  // std::logic_error.
  static void check_fill(const ServedTarget& served);
  static void check_stop(const ServedTarget& served);

  // The two halves of a close, so that a caller may look around while it waits. begin_close throws
  // MissingPagesError or UnsupportedError and then changes nothing. wait_closed returns the report
  // when it is there; a target whose pages can be neither supplied nor poisoned, or that is kept
  // open, stays so, and its report says so.
  void begin_close(ServedTarget& served, Missing missing);
  std::optional<EndingReport> wait_closed(ServedTarget& served, Missing missing,
                                          std::chrono::milliseconds timeout);

  // Until nothing is missing and, unless it is kept open, the target has ended; false on timeout.
  static bool wait(ServedTarget& served, std::chrono::milliseconds timeout);

  // Which memory of write-protected regions was written to, by address; with reset since the last
  // reset, and it is write-protected again. Throws std::logic_error where no region is
  // write-protected.
  static std::vector<Range> written(ServedTarget& served, bool reset);

  // keep-open only: waits until nobody serves it, and hands its userfaultfd back, open.
  Userfaultfd stop(ServedTarget& served);

  // Lets go at once, whatever is missing: for memory that nobody can touch any more. Waits.
  void discard(ServedTarget& served);

 private:
  Handler& least_busy_handler() const;
  void leave(ServedTarget& served);

  const Placement placement_;
  std::unique_ptr<AdoptionLedger> ledger_;  // of Placement::adopt, like its watcher
  std::unique_ptr<AdoptionWatcher> watcher_;
  // Each is used by those below it.
  EndQueue ends_;
  Roster roster_;
  std::unique_ptr<FillPool> fillers_;
  FetchPool fetchers_{ends_};
  std::vector<std::unique_ptr<Handler>> handlers_;
  std::unique_ptr<Ender> ender_;
  std::mutex adding_;
};

}  // namespace uffd
