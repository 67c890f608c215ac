// One address space whose memory is managed through one userfaultfd: what is managed in it, what is
// installed, and what could not be supplied.
//
// Owns the userfaultfd and the regions. Handlers and fillers use it at once; whoever ends it does
// so when they have let go of it, as its only user.
#pragma once

#include <sys/types.h>

#include <mutex>
#include <vector>

#include "engine/linux/mapping.hpp"
#include "engine/linux/userfaultfd.hpp"
#include "engine/target/region_table.hpp"
#include "engine/target/residency.hpp"

namespace uffd {

class Target {
 public:
  // pid 0 is this process. Everything is allocated before the userfaultfd is taken, so that none is
  // lost on the way.
  Target(RegionTable regions, pid_t pid);
  void take(Userfaultfd uffd) noexcept { uffd_ = std::move(uffd); }

  Userfaultfd& uffd() noexcept { return uffd_; }
  const Userfaultfd& uffd() const noexcept { return uffd_; }
  const RegionTable& regions() const noexcept { return regions_; }
  Residency& residency() noexcept { return residency_; }
  const Residency& residency() const noexcept { return residency_; }
  pid_t pid() const noexcept { return pid_; }
  bool is_this_process() const noexcept { return pid_ == 0; }
  // The address of zeros, as many as the largest page of a region has.
  uint64_t zeros() const noexcept { return zeros_.address(); }

  // Whether it has exited or has executed another program. Installs nothing: it asks for a copy of
  // memory that cannot be read.
  bool address_space_gone() const noexcept;

  // What its source could not supply and is poisoned: a toucher gets SIGBUS. Kept, since COPY would
  // erase the marker.
  void add_poisoned(Range range);
  std::vector<Range> poisoned() const;

 private:
  Userfaultfd uffd_;
  RegionTable regions_;
  Residency residency_;
  pid_t pid_;
  Mapping zeros_;       // never written, so it takes no memory: the kernel reads its zero page
  Mapping unreadable_;  // as long
  mutable std::mutex poisoned_mutex_;
  std::vector<Range> poisoned_;  // neighbours joined
};

// UNREGISTER can leave a thread of the range asleep (it wakes before it clears, and missing faults
// only), so a WAKE follows, always. Returns UNREGISTER's result: 0 or -errno.
int unregister_and_wake(const Userfaultfd& uffd, const Range& range) noexcept;

// Wakes every thread that sleeps in a region: it faults again, and its message comes again.
void wake_all(const Target& target) noexcept;

// Registers the regions for missing faults; those registered before are let go again when one is
// refused. Throws SystemError or std::invalid_argument that names the region and the reason.
void register_regions(const Userfaultfd& uffd, const RegionTable& regions);

}  // namespace uffd
