#include "engine/linux/fork_closed_fd.hpp"

#include <pthread.h>

#include <mutex>
#include <set>

namespace uffd {
namespace {

struct Registry {
  std::mutex mutex;
  std::set<int> open;
  unsigned generation = 0;  // how often this process was forked off since

  Registry();
};

Registry& registry() {
  // Never destroyed: a fork may come as late as exit.
  static Registry& instance = *new Registry;
  return instance;
}

void before_fork() {
  registry().mutex.lock();
}
void after_fork_in_parent() {
  registry().mutex.unlock();
}
void after_fork_in_child() {
  Registry& inherited = registry();
  for (const int fd : inherited.open) ::close(fd);
  inherited.open.clear();
  ++inherited.generation;
  inherited.mutex.unlock();
}

Registry::Registry() {
  ::pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

}  // namespace

ForkClosedFd::ForkClosedFd(const std::function<int()>& open) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  fd_ = open();
  generation_ = all.generation;
  if (fd_ >= 0) all.open.insert(fd_);
}

ForkClosedFd::ForkClosedFd(int fd, const std::unique_lock<std::mutex>&)
    : fd_(fd), generation_(registry().generation) {
  registry().open.insert(fd_);
}

std::unique_lock<std::mutex> ForkClosedFd::hold_forks() {
  return std::unique_lock(registry().mutex);
}

ForkClosedFd::operator bool() const noexcept {
  if (fd_ < 0) return false;
  const std::lock_guard lock(registry().mutex);
  return generation_ == registry().generation;
}

void ForkClosedFd::close() noexcept {
  if (fd_ < 0) return;  // without the lock: one that was moved from, while forks are held
  const std::lock_guard lock(registry().mutex);
  if (generation_ == registry().generation) {
    registry().open.erase(fd_);
    ::close(fd_);
  }
  fd_ = -1;
}

int ForkClosedFd::release() noexcept {
  const std::lock_guard lock(registry().mutex);
  registry().open.erase(fd_);
  return std::exchange(fd_, -1);
}

}  // namespace uffd
