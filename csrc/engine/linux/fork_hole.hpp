// Memory of this process that its fork children do not get. A child inherits no userfaultfd
// registration: it would read zeros where pages are missing, and a FORK event of this process would
// have fork() wait for a handler.
//
// A child that just lacks the memory is not safe yet: its next mmap could come to lie there, and
// pointers to managed memory would read and write it. So the child plugs each hole at fork with a
// mapping that nobody can access: to touch it is a segmentation fault, and nothing else.
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "engine/linux/range.hpp"

namespace uffd {

class ForkHole {
 public:
  // Keeps the ranges out of fork children from now on. Throws SystemError where some of them is not
  // mapped, or std::bad_alloc, and then changes nothing.
  explicit ForkHole(const std::vector<Range>& ranges);
  ForkHole(const ForkHole&) = delete;
  ForkHole& operator=(const ForkHole&) = delete;
  ~ForkHole() { lift(); }

  // Fork children get the memory again, except what another hole covers too. Idempotent. Waits for
  // a fork that is under way: no handler calls it. In a fork child there is nothing to lift.
  void lift() noexcept;
  // For memory whose userfaultfd nobody closes any more: the memory stays out of fork children,
  // which plug it, until a later hole covers it. Waits as lift().
  void leave() noexcept;

  // moved() notes a REMAP event, unmapped() an UNMAP event. The kernel takes a mapping's exclusion
  // from fork children along, and leaves it at the old place where that stays mapped: the hole is
  // at both until unmapped() says otherwise. Neither waits for a fork. They return false where a
  // fork is under way, or another thread changes a hole: then the change is kept, and the next call
  // or the next fork applies it.
  bool moved(const Range& from, uint64_t to) noexcept { return tell({from, to}); }
  bool unmapped(const Range& range) noexcept { return tell({range, kNowhere}); }

  // A copy, for tests and reports: sorted, and joined where they adjoin.
  std::vector<Range> ranges();

 private:
  friend struct ForkHoleList;

  static constexpr uint64_t kNowhere = ~uint64_t{0};
  struct Change {
    Range from;
    uint64_t to;
  };
  bool tell(const Change& change) noexcept;
  void apply_changes() noexcept;  // under the list's mutex

  std::mutex changes_mutex_;  // held for a moment, after the list's; no fork holds it
  std::vector<Change> changes_;

  std::vector<Range> ranges_;  // under the list's mutex, as all that follow
  ForkHole* before_ = nullptr;
  ForkHole* after_ = nullptr;
  bool listed_ = false;
};

}  // namespace uffd
