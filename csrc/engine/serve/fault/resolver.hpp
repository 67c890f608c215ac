// What is done about a fault: its page is installed with its window, its write-protection is taken
// away, it reads as zeros, or it must be fetched first.
//
// Knows a target and no thread: the caller tries again and fetches what the resolution names. Used
// by the target's handler.
#pragma once

#include <optional>
#include <span>

#include "engine/serve/fault/installer.hpp"
#include "engine/serve/fault/window.hpp"
#include "engine/serve/served/served_target.hpp"

namespace uffd {

class Resolver {
 public:
  // parent: the parent of a fork child, while the same handler serves it; else nullptr.
  Resolver(ServedTarget& served, Window& window, const Target* parent) noexcept
      : served_(served),
        target_(served.target),
        window_(window),
        parent_(parent),
        installer_(served.target, served.handler_counters) {}

  struct Resolution {
    size_t covered = 1;                    // how many of the faults are dealt with
    Outcome outcome = Outcome::done;       // of all that are covered
    std::optional<PageRun> to_fetch = {};  // pages around page, to be fetched from a late source
    uint64_t page = 0;
  };

  // Resolves the first of these sorted faults and those that the same install covers.
  Resolution resolve(std::span<const FaultKey> keys);

 private:
  Resolution resolve_missing(const Region& region, uint64_t page, std::span<const FaultKey> keys);
  // A page outside all regions.
  Resolution resolve_beyond(FaultKey key);
  Outcome resolve_write(const Region* region, uint64_t address) noexcept;

  ServedTarget& served_;
  Target& target_;
  Window& window_;
  const Target* parent_;
  Installer installer_;
};

}  // namespace uffd
