// The one place that installs pages, and the one table of what each errno of the kernel means.
#pragma once

#include <cstdint>

#include "engine/serve/stats.hpp"
#include "engine/target/target.hpp"

namespace uffd {

enum class Outcome {
  done,    // every page of the run is settled: installed, found installed, unmapped, or poisoned
  failed,  // some page can be neither supplied nor poisoned: it stays missing and its touchers
           // sleep
  again,   // some page is not settled yet: try again later
  gone,    // the target's address space is no more
};

// Used by one thread at a time: the counters are that thread's. Neither locks nor allocates, but to
// note a page that could not be supplied. In a living target the caller shares its event gate.
class Installer {
 public:
  Installer(Target& target, Counters& counters) noexcept : target_(target), counters_(counters) {}

  // Pages [first, end) of the region; each is marked when it is settled, its touchers are woken.
  // In a region with minor faults what is in the page cache comes from there, and only what is not
  // from the source. fetched, of a late source, are the bytes of page first and those behind.
  Outcome install(const Region& region, uint64_t first, uint64_t end,
                  const std::byte* fetched = nullptr) noexcept;

  // A page that was settled and is missing again. The target dropped it, so it reads as zeros from
  // now on, or SIGBUS if it was poisoned.
  Outcome install_dropped(const Region& region, uint64_t page) noexcept;

  // Those of pages [first, end) that are missing: whoever touches one gets SIGBUS, after the ending
  // too.
  Outcome poison(const Region& region, uint64_t first, uint64_t end) noexcept;

  // Sets the markers of a poisoned range again, which a removal took away.
  Outcome poison_again(const Range& range) noexcept;

  // Lets a page that somebody wrote to be written; the caller has noted it.
  Outcome unprotect(const Range& range) noexcept;

  // A page of shared memory that is touched at another place than its own: installed there it is
  // here too.
  Outcome install_alias(uint64_t address, uint64_t page) noexcept;

  // A page outside all regions. Of memory that grew out of one, or was vacated, it is zeros. Else
  // its sender registered more than it told of: it has no source, so it is poisoned.
  Outcome install_stray(uint64_t address) noexcept;

 private:
  Progress transfer(const Region& region, uint64_t first, uint64_t end,
                    const std::byte* fetched) noexcept;
  Progress move_or_copy(const Region& region, uint64_t start, uint64_t from,
                        uint64_t length) noexcept;
  Progress map_cached(const Region& region, uint64_t first, uint64_t end) noexcept;
  Progress transfer_zeros(const Region& region, uint64_t start, uint64_t length) noexcept;
  Progress copy(const Region& region, uint64_t start, uint64_t from, uint64_t length) noexcept;
  // What to do about page, at which a call stopped with this error.
  Outcome settle_page(const Region& region, uint64_t page, int error) noexcept;
  Outcome poison_run(const Region& region, uint64_t first, uint64_t end) noexcept;
  Outcome install_at(const Range& page, bool zeros) noexcept;
  // Of memory that has no page number.
  Outcome settle_stray(const Range& page, int error) noexcept;
  void wake_settled(const Region& region, uint64_t page) noexcept;

  Target& target_;
  Counters& counters_;
};

}  // namespace uffd
