#include "engine/linux/fork_closed_fd.hpp"

#include <set>

#include "engine/linux/at_fork.hpp"

namespace uffd {
namespace {

struct ClosedInForks {
  std::mutex mutex;
  std::set<int> open;
  unsigned generation = 0;  // forks since the library was loaded; written in a fork child

  AtFork at_fork{AtFork::Level::descriptors,
                 this,
                 {.prepare = [](void* self) noexcept { of(self).mutex.lock(); },
                  .in_parent = [](void* self) noexcept { of(self).mutex.unlock(); },
                  .in_child = [](void* self) noexcept { of(self).close_all_in_child(); }}};

  static ClosedInForks& of(void* self) noexcept { return *static_cast<ClosedInForks*>(self); }
  void close_all_in_child() noexcept {
    for (const int fd : open) ::close(fd);
    open.clear();
    ++generation;
    mutex.unlock();
  }
};

// Made when the library is loaded, since the guard of a function's static object is a lock that a
// fork may find taken. Never destroyed: a fork may come as late as exit.
ClosedInForks& closed_in_forks = *new ClosedInForks;

// A place in the set for a descriptor that is not known yet.
std::set<int>::node_type spare_node() {
  std::set<int> one{-1};
  return one.extract(one.begin());
}

}  // namespace

ForkClosedFd::ForkClosedFd(const std::function<int()>& open) {
  auto node = spare_node();
  const std::lock_guard lock(closed_in_forks.mutex);
  fd_ = open();
  generation_ = closed_in_forks.generation;
  if (fd_ < 0) return;
  node.value() = fd_;
  closed_in_forks.open.insert(std::move(node));
}

ForkClosedFd::ForkClosedFd(int fd, const HeldForks&)
    : fd_(fd), generation_(closed_in_forks.generation) {
  closed_in_forks.open.insert(fd);
}

HeldForks ForkClosedFd::hold_forks() {
  return HeldForks(closed_in_forks.mutex);
}

HeldForks ForkClosedFd::try_hold_forks() {
  return HeldForks(closed_in_forks.mutex, std::try_to_lock);
}

ForkClosedFd::operator bool() const noexcept {
  return fd_ >= 0 && generation_ == closed_in_forks.generation;
}

void ForkClosedFd::close() noexcept {
  // An object that was moved from takes no lock: it may be destroyed while this thread holds forks.
  if (fd_ >= 0) close(hold_forks());
}

bool ForkClosedFd::try_close() noexcept {
  if (fd_ < 0) return true;
  const HeldForks held = try_hold_forks();
  if (held) close(held);
  return held.owns_lock();
}

void ForkClosedFd::close(const HeldForks&) noexcept {
  if (fd_ < 0) return;
  if (generation_ == closed_in_forks.generation) {
    closed_in_forks.open.erase(fd_);
    ::close(fd_);
  }
  fd_ = -1;
}

void ForkClosedFd::leave_open() noexcept {
  fd_ = -1;
}

}  // namespace uffd
