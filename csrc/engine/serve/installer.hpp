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
// note a page that could not be supplied.
class Installer {
 public:
  Installer(Target& target, Counters& counters) noexcept : target_(target), counters_(counters) {}

  // Pages [first, end) of the region from its source; each is marked when it is settled, its
  // touchers are woken.
  Outcome install(const Region& region, uint64_t first, uint64_t end) noexcept;

  // A page that was resident and is missing again: the target dropped it, so it reads as zeros from
  // now on.
  Outcome install_dropped(const Region& region, uint64_t page) noexcept;

  // Those of pages [first, end) that are missing: whoever touches one gets SIGBUS, after the ending
  // too.
  Outcome poison(const Region& region, uint64_t first, uint64_t end) noexcept;

  // A page outside all regions, of a sender that registered more than it told of: it has no source,
  // so it is poisoned.
  Outcome poison_stray(uint64_t address) noexcept;

 private:
  Progress transfer(const Region& region, uint64_t first, uint64_t end) noexcept;
  Progress transfer_zeros(const Region& region, uint64_t start, uint64_t length) noexcept;
  // What to do about page, at which a call stopped with this error.
  Outcome settle_page(const Region& region, uint64_t page, int error) noexcept;
  Outcome poison_page(const Region& region, uint64_t page) noexcept;
  void wake_settled(const Region& region, uint64_t page) noexcept;

  Target& target_;
  Counters& counters_;
};

}  // namespace uffd
