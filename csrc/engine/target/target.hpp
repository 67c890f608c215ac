// One address space whose memory is managed through one userfaultfd: what is managed in it, what is
// installed, and what could not be supplied.
//
// Owns the userfaultfd and the regions. Handlers and fillers use it at once; whoever ends it does
// so when they have let go of it, as its only user. Where its memory lies changes by the events of
// a living target alone: removed(), unmapped(), moved() and a copy exclude every other use but that
// of the page sets (serve/event_gate.hpp).
#pragma once

#include <sys/types.h>

#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "engine/linux/userfaultfd.hpp"
#include "engine/target/move_log.hpp"
#include "engine/target/range_set.hpp"
#include "engine/target/region_table.hpp"
#include "engine/target/residency.hpp"

namespace uffd {

// That of a target whose process is not known: a fork child, of which the kernel tells no pid.
inline constexpr pid_t kUnknownPid = -1;

class Target {
 public:
  // pid 0 is this process. Everything is allocated before the userfaultfd is taken, so that none is
  // lost on the way. Throws SystemError where address space is short.
  Target(RegionTable regions, pid_t pid);
  // A fork child's: the same memory with the same pages resident.
  Target(const Target& parent, Userfaultfd uffd);
  void take(Userfaultfd uffd) noexcept { uffd_ = std::move(uffd); }

  Userfaultfd& uffd() noexcept { return uffd_; }
  const Userfaultfd& uffd() const noexcept { return uffd_; }
  RegionTable& regions() noexcept { return regions_; }
  const RegionTable& regions() const noexcept { return regions_; }
  Residency& residency() noexcept { return residency_; }
  const Residency& residency() const noexcept { return residency_; }
  // Pages whose write-protection somebody met; nullptr where no region is write-protected.
  PageSet* written() noexcept { return written_ ? &*written_ : nullptr; }
  const PageSet* written() const noexcept { return written_ ? &*written_ : nullptr; }
  pid_t pid() const noexcept { return pid_; }
  bool is_this_process() const noexcept { return pid_ == 0; }
  // Whether event messages tell what it does to its memory.
  bool living() const noexcept { return (uffd_.features() & kEventFeatures) != 0; }

  // Whether it has exited or has executed another program. Installs nothing: it asks for a copy of
  // memory that cannot be read.
  bool address_space_gone() const noexcept;

  // The events. Pages that are no more, or that are zeros from now on, are settled; so are those
  // that nobody can tell the bytes of, which are poisoned: removed() returns how many.
  uint64_t removed(const Range& range);
  void unmapped(const Range& range);
  void moved(const Range& from, uint64_t to);

  // Whether an event of it is on its way: it was not read, or its sender has not gone on yet. The
  // kernel installs nothing meanwhile.
  bool is_changing() const noexcept;

  // Of a fork child: moves what its parent had moved before the fork and told of after it, where
  // that explains an address outside all regions. Whether it does.
  bool catch_up(uint64_t address);

  // Whether an address outside all regions is memory of a living target that grew out of managed
  // memory, or was vacated by it: it reads as zeros, as it would natively.
  bool is_blank(uint64_t address) const;
  // The page of shared memory that an address outside all regions maps too, after MREMAP_DONTUNMAP,
  // or mremap with an old length of 0; empty where it maps none.
  std::optional<uint64_t> aliased_page(uint64_t address) const;
  const RegionTable& aliases() const noexcept { return aliases_; }
  // Registered memory of which nobody was told whose bytes it shall have.
  void set_strangers(RangeSet strangers) { strangers_ = std::move(strangers); }

  // What its source could not supply and is poisoned: a toucher gets SIGBUS. Kept, since COPY would
  // erase the marker.
  void add_poisoned(const Range& range);
  bool is_poisoned(uint64_t address) const;
  // From now on, and before there is any, these two are for signal handlers too.
  void poison_without_locks();
  std::vector<Range> poisoned() const;

 private:
  void add_alias(uint64_t from, uint64_t to);
  void copy_aliases(const Range& from, uint64_t to);
  void forget(const Range& range);
  void settle_unless_elsewhere(PageRun run);
  uint64_t poison_missing(const Region& region, PageRun run);

  Userfaultfd uffd_;
  RegionTable regions_;
  Residency residency_;
  std::optional<PageSet> written_;
  pid_t pid_;
  uint64_t page_size_;      // of some region: to ask for nothing
  uint64_t first_address_;  // of it
  RangeSet strangers_;
  RegionTable aliases_;  // other places of shared pages
  RangeSet vacated_;     // by REMAPs, and no UNMAP was told since
  // What a REMAP was told to lie on before its UNMAP was told: that is still to come, and means
  // what lay there before.
  RangeSet unmaps_to_come_;
  std::shared_ptr<MoveLog> moves_;
  std::shared_ptr<const MoveLog> parents_moves_;
  uint64_t parents_moves_known_ = 0;
  mutable std::mutex poisoned_mutex_;
  RangeSet poisoned_;
  std::optional<PageSet> poisoned_pages_;  // in place of it
};

// UNREGISTER can leave a thread of the range asleep (it wakes before it clears, and missing faults
// only), so a WAKE follows, always. Returns UNREGISTER's result: 0 or -errno.
int unregister_and_wake(const Userfaultfd& uffd, const Range& range) noexcept;

// Wakes every thread that sleeps in a region: it faults again, and its message comes again.
void wake_all(const Target& target) noexcept;

// Throws UnsupportedError where this kernel, or this userfaultfd, cannot do a region's modes.
void check_modes(const Userfaultfd& uffd, const RegionTable& regions);

// Registers the regions in their modes; those registered before are let go again when one is
// refused. Throws SystemError or std::invalid_argument that names the region and the reason.
void register_regions(const Userfaultfd& uffd, const RegionTable& regions);

// Finds out what must be known of a living target before its first event: which regions are
// shared, what is to become of pages that are removed from them, and what memory is registered
// beyond them. Reads maps and smaps. Throws UnsupportedError where a page would have to be poisoned
// and this kernel cannot.
void look_at_living(Target& target);

}  // namespace uffd
