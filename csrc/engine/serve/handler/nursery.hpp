// The nursery: fork children between their FORK event and their first turn, and the descriptors
// that they take. Used by the handler's thread alone.
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <vector>

#include "engine/serve/handler/charge.hpp"
#include "engine/serve/handler/spare_descriptor.hpp"

namespace uffd {

class Nursery {
 public:
  Nursery() { born_.reserve(Batch::kMost); }

  // How many bytes the books (the copied regions and page sets) of all living fork children may
  // take.
  static constexpr size_t kMostBytes = size_t{256} << 20;

  // Makes a target for a FORK event. Where memory for the child's books is short, or kMostBytes are
  // used, the child has no books: what it touches is poisoned. Where memory is short even for that,
  // its touchers sleep.
  void add(ServedTarget& parent, Userfaultfd uffd) noexcept;
  // The children of the last batch, at most Batch::kMost. A child that took the last descriptor is
  // marked as unserved: what it misses is poisoned, and its descriptor closed.
  std::span<const std::shared_ptr<ServedTarget>> born() noexcept;
  void clear() noexcept { born_.clear(); }

  // After a FORK event for which there was no descriptor: gives the spare one, unless one of these
  // targets is about to close its own. Whether the event can be read now.
  bool make_room(std::span<const std::unique_ptr<Charge>> charges) noexcept;
  void regain() noexcept { spare_.take(); }

 private:
  std::shared_ptr<ServedTarget> bear_within_quota(ServedTarget& parent, Userfaultfd& uffd);

  using Quota = std::shared_ptr<std::atomic<size_t>>;

  std::vector<std::shared_ptr<ServedTarget>> born_;
  const Quota used_ = std::make_shared<std::atomic<size_t>>(0);  // children outlive the nursery
  SpareDescriptor spare_;
  uint64_t look_at_ = 0;  // for children that have died; by CLOCK_MONOTONIC
};

}  // namespace uffd
