// The one place that installs pages, and the one table of what each errno of the kernel means.
#pragma once

#include <cstdint>
#include <optional>

#include "engine/serve/served/journal.hpp"
#include "engine/serve/served/stats.hpp"
#include "engine/target/target.hpp"

namespace uffd {

enum class Outcome {
  done,    // every page of the run is settled: installed, found present, unmapped, or poisoned; or
           // it is not registered yet, and missing still
  failed,  // some page can be neither supplied nor poisoned: it stays missing and its touchers
           // sleep
  again,   // some page is not settled yet: try again later
  gone,    // the target's address space is no more
};

// Owns nothing. Neither locks nor allocates, except to note a page that could not be supplied.
// Called by the target's handler, under a lease, or by the ender as the target's only user; in a
// living target the holder of a lease shares the event gate.
class Installer {
 public:
  Installer(Target& target, Counters& counters) noexcept : target_(target), counters_(counters) {}

  // Installs pages [first, end) of the region; marks each as settled and wakes its touchers. In a
  // region with minor faults pages in the page cache are mapped from there, and only the others
  // come from the source. fetched: the bytes of page first and of the pages behind it, from a late
  // source.
  Outcome install(const Region& region, uint64_t first, uint64_t end,
                  const std::byte* fetched = nullptr) noexcept;

  // For a fault on a settled page: the target dropped the page, so it reads as zeros from now on,
  // or gives SIGBUS again if it was poisoned.
  Outcome install_dropped(const Region& region, uint64_t page) noexcept;

  // Poisons the missing pages among [first, end): to touch one gives SIGBUS, after the ending too.
  Outcome poison(const Region& region, uint64_t first, uint64_t end, const Blame& blame) noexcept;

  // Poisons those of the pages [first, end) whose image has no bytes of them, whatever the target
  // had there before it dropped them. A page that is present is left alone.
  Outcome poison_dropped(uint64_t first, uint64_t end, const Blame& blame) noexcept;

  // Sets the markers of a poisoned range again, which a removal took away.
  Outcome poison_again(const Range& range) noexcept;

  // Takes the write-protection of pages away; the caller has noted the write before.
  Outcome unprotect(const Range& range) noexcept;

  // For a page of shared memory that is touched at an alias: installed at its own place, it is at
  // the alias, too.
  Outcome install_alias(uint64_t address, uint64_t page, bool is_minor) noexcept;

  // For a page outside all regions (a stray): zeros where Target::is_blank() says so. Else the page
  // has no source, since its owner registered more memory than regions were named; it is poisoned.
  Outcome install_stray(uint64_t address) noexcept;

 private:
  Progress transfer(const Region& region, uint64_t first, uint64_t end,
                    const std::byte* fetched) noexcept;
  Progress move_or_copy(const Region& region, uint64_t start, uint64_t from,
                        uint64_t length) noexcept;
  // At the address: their own place, or an alias.
  Progress map_cached(const Region& region, uint64_t first, uint64_t end,
                      uint64_t address) noexcept;
  Progress transfer_zeros(const Region& region, uint64_t start, uint64_t length) noexcept;
  Progress copy(const Region& region, uint64_t start, uint64_t from, uint64_t length) noexcept;
  // What to do about page, at which a call stopped with this error.
  Outcome settle_page(const Region& region, uint64_t page, int error) noexcept;
  Outcome poison_run(const Region& region, uint64_t first, uint64_t end,
                     const Blame& blame) noexcept;
  void note_failure(const Region& region, const Range& range, const Blame& blame) noexcept;
  // Installs zeros, or poison for a cause, at a place.
  Outcome install_at(const Range& page, std::optional<Cause> poison) noexcept;
  Progress put(const Range& page, bool zeros) noexcept;
  Outcome conclude(const Range& page, std::optional<Cause> poison,
                   const Progress& progress) noexcept;
  // As settle_page(), but marks nothing.
  Outcome settle_place(const Range& page, int error) noexcept;
  void mark_installed(uint64_t first, uint64_t pages) noexcept;
  // Marks the page and wakes the threads that sleep for it; whether it was missing until now.
  bool wake_settled(const Region& region, uint64_t page) noexcept;

  Target& target_;
  Counters& counters_;
};

}  // namespace uffd
