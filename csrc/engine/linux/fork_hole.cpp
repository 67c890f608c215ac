#include "engine/linux/fork_hole.hpp"

#include <algorithm>
#include <mutex>
#include <new>
#include <utility>

#include "engine/linux/at_fork.hpp"
#include "engine/linux/error.hpp"
#include "engine/linux/syscall.hpp"

#ifndef MAP_FIXED_NOREPLACE  // Linux 4.17; before, the kernel maps elsewhere
#define MAP_FIXED_NOREPLACE 0x100000
#endif

namespace uffd {
namespace {

using Ranges = std::vector<Range>;  // sorted, and neither overlapping nor adjoining

void add(Ranges& ranges, Range added) {
  if (added.length == 0) return;
  const auto first = std::partition_point(
      ranges.begin(), ranges.end(), [&](const Range& range) { return range.end() < added.start; });
  const auto last = std::partition_point(
      first, ranges.end(), [&](const Range& range) { return range.start <= added.end(); });
  if (first == last) {
    ranges.insert(first, added);
    return;
  }
  const uint64_t start = std::min(first->start, added.start);
  const uint64_t end = std::max(std::prev(last)->end(), added.end());
  *first = {start, end - start};
  ranges.erase(std::next(first), last);
}

void remove(Ranges& ranges, const Range& removed) {
  Ranges left;
  left.reserve(ranges.size() + 1);
  for (const Range& range : ranges) {
    const Range gone = range.intersection(removed);
    if (gone.length == 0) {
      left.push_back(range);
      continue;
    }
    if (range.start < gone.start) left.push_back({range.start, gone.start - range.start});
    if (gone.end() < range.end()) left.push_back({gone.end(), range.end() - gone.end()});
  }
  ranges = std::move(left);
}

// False where something is mapped in the range.
bool plug_whole(const Range& range) noexcept {
  constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
  void* const place = reinterpret_cast<void*>(range.start);
  void* const mapped = ::mmap(place, range.length, PROT_NONE, flags, -1, 0);
  // Any other error is EAGAIN or ENOMEM, with which parts of the range would fail as well.
  if (mapped == MAP_FAILED) return errno != EEXIST;
  if (mapped == place) return true;
  ::munmap(mapped, range.length);
  return false;
}

// What other hooks of the child have mapped in the range already stays; the rest is plugged.
void plug(const Range& range) noexcept {
  if (plug_whole(range) || range.length <= sys::kPageSize) return;
  const uint64_t half = range.length / 2 / sys::kPageSize * sys::kPageSize;
  plug({range.start, half});
  plug({range.start + half, range.length - half});
}

int advise(const Range& range, int advice) noexcept {
  return sys::madvise(range.start, range.length, advice);
}

}  // namespace

struct ForkHoleList {
  std::mutex mutex;
  ForkHole* first = nullptr;
  Ranges left;  // the memory of holes that leave() took off the list

  AtFork at_fork{AtFork::Level::holes,
                 this,
                 {.prepare = [](void* self) noexcept { of(self).hold(); },
                  .in_parent = [](void* self) noexcept { of(self).mutex.unlock(); },
                  .in_child = [](void* self) noexcept { of(self).plug_in_child(); }}};

  static ForkHoleList& of(void* self) noexcept { return *static_cast<ForkHoleList*>(self); }

  void hold() noexcept {
    mutex.lock();
    for (ForkHole* hole = first; hole; hole = hole->after_) hole->apply_changes();
  }
  // Allocates nothing. The child's own children inherit the plugs.
  void plug_in_child() noexcept {
    for (const Range& range : left) plug(range);
    left.clear();
    while (first) {
      for (const Range& range : first->ranges_) plug(range);
      first->ranges_.clear();
      remove(*first);
    }
    mutex.unlock();
  }

  void insert(ForkHole& hole) noexcept {
    hole.after_ = first;
    if (first) first->before_ = &hole;
    first = &hole;
    hole.listed_ = true;
  }
  void remove(ForkHole& hole) noexcept {
    (hole.before_ ? hole.before_->after_ : first) = hole.after_;
    if (hole.after_) hole.after_->before_ = hole.before_;
    hole.listed_ = false;
  }

  // Gives a range back to fork children, except what this hole, or one behind it in the list,
  // covers.
  void give_back(Range range, const ForkHole* hole) const noexcept {
    for (; hole; hole = hole->after_) {
      for (const Range& other : hole->ranges_) {
        const Range covered = range.intersection(other);
        if (covered.length == 0) continue;
        give_back({range.start, covered.start - range.start}, hole->after_);
        range = {covered.end(), range.end() - covered.end()};
      }
    }
    if (range.length > 0) advise(range, MADV_DOFORK);
  }
};

namespace {

// Made when the library is loaded and never destroyed: a target may end, and a fork may come, as
// late as exit.
ForkHoleList& fork_holes = *new ForkHoleList;

}  // namespace

ForkHole::ForkHole(const std::vector<Range>& ranges) {
  for (const Range& range : ranges) add(ranges_, range);
  const std::lock_guard lock(fork_holes.mutex);
  Ranges left = fork_holes.left;
  for (const Range& range : ranges_) remove(left, range);
  for (const Range& range : ranges_) {
    const int error = advise(range, MADV_DONTFORK);
    if (error == 0) continue;
    // The kernel goes on behind what is not mapped: that range counts among those to give back.
    Ranges excluded;
    for (const Range& before : ranges_) {
      if (before.start <= range.start) add(excluded, before);
    }
    for (const Range& still : fork_holes.left) remove(excluded, still);
    for (const Range& part : excluded) fork_holes.give_back(part, fork_holes.first);
    throw SystemError(-error, "cannot keep " + range_text(range.start, range.length) +
                                  " out of fork children (MADV_DONTFORK): map it first");
  }
  fork_holes.left = std::move(left);
  fork_holes.insert(*this);
}

void ForkHole::lift() noexcept {
  const std::lock_guard lock(fork_holes.mutex);
  if (!listed_) return;
  apply_changes();
  fork_holes.remove(*this);
  for (const Range& range : ranges_) fork_holes.give_back(range, fork_holes.first);
  ranges_.clear();
}

void ForkHole::leave() noexcept {
  const std::lock_guard lock(fork_holes.mutex);
  if (!listed_) return;
  apply_changes();
  try {
    Ranges left = fork_holes.left;
    for (const Range& range : ranges_) add(left, range);
    fork_holes.left = std::move(left);
  } catch (const std::bad_alloc&) {
    // The memory stays out of fork children, but gets no plug.
  }
  fork_holes.remove(*this);
  ranges_.clear();
}

bool ForkHole::tell(const Change& change) noexcept {
  try {
    const std::lock_guard lock(changes_mutex_);
    changes_.push_back(change);
  } catch (const std::bad_alloc&) {
    return false;  // lost: moved memory stays out of fork children, without a plug
  }
  const std::unique_lock lock(fork_holes.mutex, std::try_to_lock);
  if (lock) apply_changes();
  return lock.owns_lock();
}

void ForkHole::apply_changes() noexcept {
  std::vector<Change> changes;
  {
    const std::lock_guard lock(changes_mutex_);
    changes.swap(changes_);
  }
  if (!listed_) return;
  try {
    for (const Change& change : changes) {
      if (change.to == kNowhere) {
        remove(ranges_, change.from);
        continue;
      }
      const Ranges here = ranges_;
      for (const Range& range : here) {
        const Range part = range.intersection(change.from);
        add(ranges_, {change.to + (part.start - change.from.start), part.length});
      }
    }
  } catch (const std::bad_alloc&) {
    // The change is lost, as in tell().
  }
}

std::vector<Range> ForkHole::ranges() {
  const std::lock_guard lock(fork_holes.mutex);
  apply_changes();
  return ranges_;
}

}  // namespace uffd
