// Owns the handlers, fillers, fetchers and the ender of many targets; starts and stops them in
// order.
//
// Any thread may call any function; those that wait say so. The threads belong to the process that
// made the manager: in a fork child it must neither be used nor destroyed.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <vector>

#include "engine/serve/adoption/guarded_masks.hpp"
#include "engine/serve/awake/wakefulness.hpp"
#include "engine/serve/end/ender.hpp"
#include "engine/serve/fill/fill_pool.hpp"
#include "engine/serve/handler/handler.hpp"
#include "engine/serve/manager/placement.hpp"
#include "engine/serve/manager/target_options.hpp"

namespace uffd {

// What close() does about missing pages.
enum class Missing { raise, fill, zero, poison };

// close(Missing::raise) met missing pages; the target is served on.
class MissingPagesError : public std::runtime_error {
 public:
  MissingPagesError(const std::string& text, uint64_t missing)
      : std::runtime_error(text), missing_pages(missing) {}
  uint64_t missing_pages;
};

struct ManagerOptions {
  size_t handlers = 1;
  size_t fillers = 1;
  PlacementOptions placement = {};
  GuardProgram guard = {};  // the program that guards targets
  size_t guards = 1;        // or 2
};

class Manager {
 public:
  // Throws std::invalid_argument, or SystemError where a thread cannot be started.
  explicit Manager(const ManagerOptions& options);
  ~Manager();  // fills what is missing first, and waits for that

  // Registers the regions, unless the userfaultfd was received, and serves the target. Throws
  // std::invalid_argument, SystemError or UnsupportedError that names the wrong value: then the
  // userfaultfd is still the caller's, and no region is registered.
  std::shared_ptr<ServedTarget> add(Userfaultfd& uffd, std::vector<Region> regions,
                                    const TargetOptions& options);

  // What a guard hands over of a target whose manager has died.
  struct Heirloom {
    Userfaultfd uffd;
    Fd ledger;
    Fd completion;  // or none
  };
  // Serves the targets of a manager that has died, as it did; all threads wake up and fault once
  // more. sources: by the numbers that they had. Throws std::invalid_argument for a ledger that is
  // none, that is damaged, or that needs other sources, and then has served none. Throws as add()
  // does where the system is short of something: targets before that one are served.
  std::vector<std::shared_ptr<ServedTarget>> take_over(std::vector<Heirloom>& heirlooms,
                                                       std::span<const SourcePtr> sources);

  // Starts the guard before the first target needs it, which takes a millisecond.
  void start_guard() { guard_link().start(guard_, guards_); }

  // To be called when the owner of a target's memory has registered it. Begins the fill that was
  // asked for before. Throws std::logic_error where the memory counted as registered already,
  // std::invalid_argument that names a region which is not registered, unless it is not to check.
  void set_registered(ServedTarget& served, bool check = true);

  void fill(ServedTarget& served, bool when_idle = false);
  // The checks of fill() and stop(), without a manager: for a target whose manager may have ended.
  // They throw std::logic_error.
  static void check_fill(const ServedTarget& served);
  static void check_stop(const ServedTarget& served);

  // The two halves of a close, so that a caller may look around while it waits. begin_close throws
  // MissingPagesError, UnsupportedError or std::logic_error and then changes nothing. wait_closed
  // returns the report when there is one, else nothing after the timeout; a target whose pages can
  // be neither supplied nor poisoned, or that is kept open, stays open, and the report says so.
  void begin_close(ServedTarget& served, Missing missing);
  std::optional<EndingReport> wait_closed(ServedTarget& served, Missing missing,
                                          std::chrono::milliseconds timeout);

  // Waits until nothing is missing and, unless the target is endless, until it has ended; false on
  // timeout.
  static bool wait(ServedTarget& served, std::chrono::milliseconds timeout);

  // Which memory of write-protected regions was written to since the last reset, by address. With
  // reset the memory is write-protected again, as long as no ending is decided. Throws
  // std::logic_error where no region is write-protected.
  static std::vector<Range> written(ServedTarget& served, bool reset);

  // Under keep-open only: waits until nobody serves the target, and hands its userfaultfd back,
  // open.
  Userfaultfd stop(ServedTarget& served);

  // Ends the target at once, whatever is missing: for memory that nobody can touch any more. Waits
  // for the ending.
  void discard(ServedTarget& served);

 private:
  static constexpr const char* kStopped =
      "the target was stopped: serve the userfaultfd that stop() returned";

  Handler& least_busy_handler() const;
  std::shared_ptr<ServedTarget> prepare(const Userfaultfd& uffd, std::vector<Region> regions,
                                        const TargetOptions& options);
  void place(ServedTarget& served, Handler& handler, const TargetOptions& options);
  std::shared_ptr<ServedTarget> serve_on(Heirloom& heirloom, std::unique_ptr<Ledger> ledger,
                                         Restored restored);
  void leave(ServedTarget& served);
  void go_on_registered(ServedTarget& served);
  static void await_marks(ServedTarget& served);

  const Placement placement_;
  const GuardProgram guard_;
  const size_t guards_;
  std::unique_ptr<AdoptionLedger> ledger_;  // under Placement::adopt, like the next member
  std::optional<GuardedMasks> guarded_masks_;
  std::unique_ptr<Wakefulness> wakefulness_;  // under Placement::automatic
  // Each member is used by the members below it, which are destroyed first.
  EndQueue ends_;
  FetchPool fetchers_;
  std::unique_ptr<FillPool> fillers_;
  std::unique_ptr<Ender> ender_;
  std::vector<std::unique_ptr<Handler>> handlers_;
  std::mutex adding_;
};

}  // namespace uffd
