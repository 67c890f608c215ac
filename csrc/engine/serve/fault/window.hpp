// Which missing pages are installed with a faulting one: a fixed number around it, or as many as
// its stream of faults is worth; more while a fill is under way. One thread's; allocates nothing.
#pragma once

#include <optional>
#include <span>

#include "engine/serve/fault/fault_key.hpp"
#include "engine/serve/fault/fault_streams.hpp"

namespace uffd {

class Window {
 public:
  // pages: a fixed number of pages; empty: the number is learned from the faults (FaultStreams).
  explicit Window(std::optional<uint32_t> pages) noexcept : pages_(pages) {}

  struct Run {
    PageRun pages;
    size_t covered;  // how many of the faults lie in it
  };

  // The pages to install with the first of these faults, widened over faults of the same kind that
  // adjoin it, up to a length that keeps no fault waiting for long.
  Run around(const Residency& residency, const Region& region, std::span<const FaultKey> keys,
             bool filling) noexcept;
  // Whether an install of so many bytes is long enough to tell the speed.
  static bool learns_from(uint64_t bytes) noexcept { return bytes >= FaultStreams::kEnoughBytes; }
  // An install of so many bytes took so long.
  void learn_speed(uint64_t bytes, uint64_t nanoseconds) noexcept {
    if (!pages_) streams_.learn_speed(bytes, nanoseconds);
  }

 private:
  PageRun around_page(const Residency& residency, const Region& region, uint64_t page,
                      bool filling) noexcept;

  const std::optional<uint32_t> pages_;
  FaultStreams streams_;
};

}  // namespace uffd
