// One address space whose memory is managed through one userfaultfd: what is managed in it, what is
// installed, and what could not be supplied.
//
// Owns the userfaultfd and the regions. Handlers and fillers use it at once; the ender is its only
// user, once they have let go of it. Only the events of a living target change where its memory
// lies: removed(), unmapped(), moved() and a copy exclude every other use but that of the page sets
// (serve/served/event_gate.hpp).
#pragma once

#include <sys/types.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "engine/linux/userfaultfd.hpp"
#include "engine/target/move_log.hpp"
#include "engine/target/range_set.hpp"
#include "engine/target/region_table.hpp"
#include "engine/target/residency.hpp"
#include "engine/target/restored.hpp"
#include "engine/target/source_failures.hpp"

namespace uffd {

// The pid of a target whose process is not known: a fork child, whose pid the kernel does not tell.
inline constexpr pid_t kUnknownPid = -1;

// What registered memory outside all regions reads as.
enum class Beyond {
  automatic,  // zeros, where it may have grown out of a region of a living target; else poison
  zero,
  poison,  // unless it has grown out of a region, or was vacated
};

class Target {
 public:
  // Whether what a guard must know of the target is kept in a ledger.
  enum class Noted { no, in_ledger };

  // pid 0 is this process. Everything is allocated before take(), so that no userfaultfd is lost on
  // the way. Throws SystemError where address space is short.
  Target(RegionTable regions, pid_t pid, Noted noted = Noted::no);
  // The target of a fork child: the same memory with the same pages resident.
  Target(const Target& parent, Userfaultfd uffd, Noted noted = Noted::no);
  // The target of a manager that has died, from its ledger.
  Target(std::unique_ptr<Ledger> ledger, Restored restored);
  void take(Userfaultfd uffd) noexcept { uffd_ = std::move(uffd); }
  // nullptr where nothing is noted.
  Ledger* ledger() noexcept { return ledger_.get(); }

  Userfaultfd& uffd() noexcept { return uffd_; }
  const Userfaultfd& uffd() const noexcept { return uffd_; }
  RegionTable& regions() noexcept { return regions_; }
  const RegionTable& regions() const noexcept { return regions_; }
  Residency& residency() noexcept { return residency_; }
  const Residency& residency() const noexcept { return residency_; }
  // The pages that the target has written to; nullptr where no region is write-protected.
  PageSet* written() noexcept { return written_ ? &*written_ : nullptr; }
  const PageSet* written() const noexcept { return written_ ? &*written_ : nullptr; }
  pid_t pid() const noexcept { return pid_; }
  bool is_this_process() const noexcept { return pid_ == 0; }
  // Tells the targets of this process apart; from 1 on.
  uint64_t id() const noexcept { return id_; }
  // Whether the owner of the memory has registered the regions: until then, a page that is not
  // registered cannot be installed and stays missing.
  bool registered() const noexcept { return registered_.load(std::memory_order_acquire); }
  void set_registered(bool registered) noexcept {
    registered_.store(registered, std::memory_order_release);
    if (ledger_) ledger_->set_registered(registered);
  }
  // Whether the target is living: event messages tell what it does to its memory.
  bool living() const noexcept { return (uffd_.features() & kEventFeatures) != 0; }

  // Whether the target has exited or has executed another program. Installs nothing: it asks the
  // kernel for a copy of memory that cannot be read.
  bool address_space_gone() const noexcept;

  // Apply the events REMOVE, UNMAP and REMAP. Throw std::bad_alloc where memory is short: then call
  // lose_track(). Pages that were unmapped, or read as zeros from now on, are settled; pages whose
  // bytes the event leaves in doubt are poisoned: removed() returns how many.
  uint64_t removed(const Range& range);
  void unmapped(const Range& range);
  void moved(const Range& from, uint64_t to);

  // Whether an event of the target is on its way: the event was not read, or its sender has not run
  // again. The kernel installs nothing meanwhile.
  bool is_changing() const noexcept;

  // For a fork child and an address outside all regions: repeats the moves that the parent made
  // before the fork and told of after it, if they brought memory to the address. Whether they did.
  bool catch_up(uint64_t address);

  // To be called when memory was short while an event was applied: where the pages lie is not known
  // any more, so none is installed, and what is touched is poisoned.
  void lose_track() noexcept;

  // Whether an address outside all regions reads as zeros: because the user said so (set_beyond),
  // or because managed memory of a living target grew to it or was moved away from it.
  bool is_blank(uint64_t address) const;
  // The page sizes that the target's memory may have, one bit each.
  uint64_t page_sizes() const noexcept { return page_sizes_; }
  Beyond beyond() const noexcept { return reads_beyond_; }
  void set_beyond(Beyond beyond) noexcept { reads_beyond_ = beyond; }
  // Whether such an address, though is_blank(), must be proved to have grown out of a region, since
  // no event tells of memory that is registered after serving began.
  bool must_have_grown(uint64_t address) const;
  // Whether an address outside all regions lies in one mapping with the managed memory next to it:
  // -EFAULT where it does, -ENOENT or -EINVAL where not; -EAGAIN or -ESRCH where that cannot be
  // told.
  int is_one_mapping_with_neighbour(uint64_t address) const noexcept;
  // The page of shared memory that an address outside all regions maps, too: an alias, made by
  // MREMAP_DONTUNMAP or by mremap with an old length of 0. Empty where the address maps none.
  std::optional<uint64_t> aliased_page(uint64_t address) const;
  const RegionTable& aliases() const noexcept { return aliases_; }
  // Memory outside all regions that was registered when serving began, with no
  // source.
  void set_registered_beyond(RangeSet ranges);
  const RangeSet& registered_beyond() const noexcept { return beyond_; }

  // Pages that could not be supplied and are poisoned: a toucher gets SIGBUS. They are remembered,
  // since COPY would erase the marker.
  void add_poisoned(const Range& range) noexcept;
  bool is_poisoned(uint64_t address) const;
  // To be called before any page is poisoned: from then on signal handlers may call add_poisoned()
  // and is_poisoned().
  void poison_without_locks();
  std::vector<Range> poisoned() const;
  SourceFailures& source_failures() noexcept { return source_failures_; }
  const SourceFailures& source_failures() const noexcept { return source_failures_; }

  // Lets go of the sources, of what keeps the memory mapped, and of the ledger's descriptor. By the
  // target's only user.
  void let_go_of_what_regions_hold() noexcept;

 private:
  static uint64_t next_id() noexcept;

  // Where UNMAP events come, more than a process can have mappings (vm.max_map_count is 65530), of
  // which each alias is one. Elsewhere most aliases are stale.
  size_t most_aliases() const noexcept { return tells_of_unmaps() ? 65536 : 8192; }

  bool tells_of_unmaps() const noexcept {
    return (uffd_.features() & UFFD_FEATURE_EVENT_UNMAP) != 0;
  }
  // By a COPY that installs nothing: elsewhere the kernel refuses the range before it looks at the
  // bytes, which cannot be read.
  int is_one_mapping(const Range& range) const noexcept;
  void add_alias(uint64_t from, uint64_t to);
  void copy_aliases(const Range& from, uint64_t to);
  void forget(const Range& range);
  void settle_unless_elsewhere(PageRun run);
  uint64_t poison_missing(const Region& region, PageRun run);

  // What a page of a poisoned range is noted as.
  enum class Poison { set, cleared };
  void note_poison(const Range& range, Poison poison) noexcept;
  void begin_ledger();
  void add_noted_poison(const Region& region);
  void note_unmaps_to_come() noexcept;

  const uint64_t id_ = next_id();
  Userfaultfd uffd_;
  std::unique_ptr<Ledger> ledger_;  // of the two below
  RegionTable regions_;
  Residency residency_;
  std::optional<PageSet> noted_poisoned_;  // in the ledger
  std::optional<PageSet> written_;
  pid_t pid_;
  uint64_t page_sizes_;     // see page_sizes()
  uint64_t page_size_;      // of one region: for a COPY that installs nothing
  uint64_t first_address_;  // of that region
  std::atomic<bool> registered_{true};
  bool has_regions_;
  Beyond reads_beyond_ = Beyond::automatic;
  bool lost_track_ = false;
  bool forgot_aliases_ = false;
  RangeSet beyond_;
  RegionTable aliases_;  // other places of shared pages; no more than most_aliases()
  RangeSet vacated_;     // by REMAP events, and no UNMAP event was read since
  // A REMAP event may be read before the UNMAP event of what lay at its destination. Those ranges:
  // their UNMAP is still to come, and does not mean what was moved there.
  RangeSet unmaps_to_come_;
  std::shared_ptr<MoveLog> moves_;
  std::shared_ptr<const MoveLog> parents_moves_;
  uint64_t parents_moves_known_ = 0;
  mutable std::mutex poisoned_mutex_;
  RangeSet poisoned_;
  bool poisoned_is_short_ = false;         // no memory was left to note some of it
  std::optional<PageSet> poisoned_pages_;  // in place of poisoned_, after poison_without_locks()
  SourceFailures source_failures_;
};

// UNREGISTER can leave a thread of the range asleep (it wakes before it clears, and missing faults
// only), so a WAKE follows, always. Returns UNREGISTER's result: 0 or -errno.
int unregister_and_wake(const Userfaultfd& uffd, const Range& range) noexcept;

// Wakes every thread that sleeps at a fault of the target: it faults again, and its message comes
// again.
void wake_all(const Target& target) noexcept;

}  // namespace uffd
