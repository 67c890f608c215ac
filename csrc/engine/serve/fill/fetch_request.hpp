// Pages of one target that were asked of a late source, and how they are installed when their bytes
// are there. One fetcher at a time works on a request; its fields from due on belong to the pool,
// under the pool's mutex.
#pragma once

#include <cstddef>
#include <map>
#include <memory>

#include "engine/serve/fault/installer.hpp"
#include "engine/serve/served/served_target.hpp"

namespace uffd {

struct FetchRequest {
  std::shared_ptr<ServedTarget> served;
  SourcePtr source;
  uint64_t offset;
  uint64_t page_size;
  uint64_t first, end;  // pages
  uint64_t start;       // address of page first, when the request was made

  // Requests by when their deadlines pass, by CLOCK_MONOTONIC.
  using Deadlines = std::multimap<uint64_t, std::shared_ptr<FetchRequest>>;
  static constexpr uint64_t kNever = UINT64_MAX;
  Deadlines::iterator due = {};
  unsigned failures = 0;   // reads of it that failed
  uint64_t failed_at = 0;  // the first of them, by CLOCK_MONOTONIC
  bool of_fault = false;   // else of a fill
  bool overdue = false;    // its deadline passed while it was read
  bool finished = false;   // its read has returned
  bool forgotten = false;  // its pages are settled, or it was dropped: nobody waits for it

  uint64_t length() const noexcept { return (end - first) * page_size; }
  // The request for one of its pages.
  FetchRequest of_page(uint64_t page) const;
};

// Install the request's pages that are still missing, or poison them, under a lease.
// Outcome::again where some must be tried again.
Outcome settle(const FetchRequest& request, const std::byte* bytes);
Outcome poison(const FetchRequest& request, const Blame& blame);

}  // namespace uffd
