// A target while a manager serves it: what its handler, the holders of leases and the ender share.
//
// Its handler's thread owns it (see Lifecycle, and Charge for what that thread alone knows of it);
// other threads send commands through its mailbox, or use its userfaultfd under a lease. Owned
// jointly by its handler, its user's handle, and the requests and jobs about it; a fork child by
// its parent, too.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <vector>

#include "engine/guard/guard_link.hpp"
#include "engine/linux/dma_latency.hpp"
#include "engine/linux/fd.hpp"
#include "engine/linux/fork_hole.hpp"
#include "engine/linux/thread.hpp"
#include "engine/serve/served/completion.hpp"
#include "engine/serve/served/event_gate.hpp"
#include "engine/serve/served/leases.hpp"
#include "engine/serve/served/lifecycle.hpp"
#include "engine/serve/served/stats.hpp"
#include "engine/serve/served/target_queue.hpp"
#include "engine/target/target.hpp"

namespace uffd {

class Adoption;
struct Charge;
class InlineFaults;
class LocalMemory;
class Mailbox;
struct VigilNotes;

// What the user chose; constant.
struct TargetSettings {
  Ending ending = Ending::automatic;
  std::optional<uint32_t> fault_around = {};    // pages; empty: learned from the faults
  bool verify = true;                           // look at smaps after the ending
  bool collapse = false;                        // into huge pages, after the ending
  AfterDeath after_death = AfterDeath::poison;  // of this process, where the target has a guard
  bool trusts_pagemap = false;                  // see TargetOptions
};

struct ServedTarget : std::enable_shared_from_this<ServedTarget> {
  ServedTarget(RegionTable regions, pid_t pid, const TargetSettings& chosen,
               Target::Noted noted = Target::Noted::no);
  // That of a manager that has died, to be served as its ledger says.
  ServedTarget(std::unique_ptr<Ledger> ledger, Restored restored);
  // The target of a fork child, with its parent's settings, regions and pages; without its
  // userfaultfd.
  struct OfFork {};
  ServedTarget(OfFork, ServedTarget& forker, Target::Noted noted);

  // Whether the target does not end when it is complete: only its user, or its death, ends it.
  bool endless() const noexcept {
    return settings.ending == Ending::keep_open || target.written() ||
           target.residency().pages() == 0;
  }
  bool complete() const noexcept { return target.residency().missing() == 0; }
  // The shared event gate, for a thread that installs and is not the handler. A target without
  // event features needs none: the lock is empty.
  std::shared_lock<EventGate> installing() const {
    return living ? std::shared_lock(gate) : std::shared_lock(gate, std::defer_lock);
  }
  // Has the handler look at a target that is complete, or gone. Any thread.
  void tell_if_complete();
  // Tells the handler that the target's address space is gone. Any thread.
  void tell_gone();
  // Notes the settings in the ledger, if there is one. Before the target is served.
  void note_settings() noexcept;
  // Has the guard hold the target, where it has a ledger and the present guard does not hold it
  // yet; false where that guard could not be told. By the handler; by add() before.
  bool keep_guarded() noexcept;
  // Waits until no guard holds the target. By the ender.
  void let_guard_go() noexcept;

  const TargetSettings settings;

  // What each turn of its handler looks at stands together.
  Target target;
  std::atomic<bool> gone{false};       // its address space is no more
  std::atomic<bool> filling{false};    // a fill of it is under way
  std::atomic<bool> unserved{false};   // no descriptor was left for this fork child
  bool living = false;                 // see Target::living(); constant once it is served
  std::weak_ptr<ServedTarget> parent;  // of a fork child
  std::shared_ptr<Adoption> adoption;  // under Placement::adopt; the handler's
  Counters handler_counters;           // the handler's
  LatencyHistogram latency;            // the handler's
  Charge* charge = nullptr;            // the handler's, while it has the target
  Lifecycle life;

  Leases leases;
  mutable EventGate gate;
  std::shared_ptr<Mailbox> mailbox;  // of its handler; set before it is served, then constant
  QueueSlot in_mailbox, in_end_queue;
  SharedCounters shared_counters;                // of everybody but the handler
  std::atomic<uint64_t> outstanding_fetches{0};  // requests that are not settled yet
  std::atomic<bool> released{false};  // it is complete, and fork children and sources may have it
  std::atomic<bool> fill_wanted{false};     // asked for before the memory was registered
  std::atomic<bool> fill_when_idle{false};  // see FillJob::gives_way()

  // Set before the target is served. The ender gives these, and the adoption, back.
  std::shared_ptr<InlineFaults> inline_faults;    // see InlineFaults; else nullptr
  std::optional<DmaLatency> awake;                // while it is served, where that was asked for
  std::unique_ptr<ForkHole> fork_hole;            // of memory of this process
  Fd process;                                     // pidfd of another process
  Completion completion;                          // the ender's, from the target's completeness on
  std::shared_ptr<const VigilNotes> vigil_notes;  // of its handler
  std::optional<Cpu> handler_cpu;                 // of its handler, where that is held to a CPU
  bool kept_awake = false;                        // whether awake is or was set

  // Of a fork child: its share of the quota of the nursery, which it gives back when it is gone.
  std::shared_ptr<void> books;
  GuardLink::Generation guarded_by = 0;  // the guard that holds the target

  mutable std::mutex mutex;                            // of the members below
  std::deque<std::shared_ptr<ServedTarget>> children;  // all that live, and the last that ended
  std::shared_ptr<LocalMemory> local_memory;           // until nothing is missing
};

// A lease of a target for one bounded call; the target must outlive it.
class Lease {
 public:
  explicit Lease(ServedTarget& served) : served_(served), held_(served.leases.take(turn_)) {}
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  ~Lease();

  // False: an ending is decided, and nobody may use the userfaultfd any more.
  explicit operator bool() const noexcept { return held_; }

 private:
  ServedTarget& served_;
  unsigned turn_ = 0;
  bool held_;
};

// Makes a target of a fork child, to be served as its parent is, and notes it among the parent's
// children. Without books (a copy of the parent's regions and pages), all that the child touches is
// poisoned. Throws std::bad_alloc, and then leaves the userfaultfd to the caller.
enum class Books { copied, none };
std::shared_ptr<ServedTarget> bear(ServedTarget& parent, Userfaultfd& uffd, Books books);
void add_child(ServedTarget& parent, const std::shared_ptr<ServedTarget>& child);
std::vector<std::shared_ptr<ServedTarget>> children(const ServedTarget& parent);

}  // namespace uffd
