#include "engine/linux/at_fork.hpp"

#include <pthread.h>

#include <mutex>

#include "engine/linux/error.hpp"

namespace uffd {

// The mutex is held from the first prepare to the end of a fork: the list does not change
// meanwhile.
struct AtForkList {
  std::mutex mutex;
  AtFork* first = nullptr;
  AtFork* last = nullptr;
  bool registered = false;

  void insert(AtFork& added) noexcept {
    AtFork* before = last;
    while (before && before->level_ > added.level_) before = before->before_;
    added.before_ = before;
    added.after_ = before ? before->after_ : first;
    (added.before_ ? added.before_->after_ : first) = &added;
    (added.after_ ? added.after_->before_ : last) = &added;
  }
  void remove(AtFork& removed) noexcept {
    (removed.before_ ? removed.before_->after_ : first) = removed.after_;
    (removed.after_ ? removed.after_->before_ : last) = removed.before_;
  }

  void prepare() noexcept {
    mutex.lock();
    for (const AtFork* one = first; one; one = one->after_) {
      if (one->hooks_.prepare) one->hooks_.prepare(one->self_);
    }
  }
  void after(void (*AtFork::Hooks::*hook)(void*) noexcept) noexcept {
    for (const AtFork* one = last; one; one = one->before_) {
      if (one->hooks_.*hook) (one->hooks_.*hook)(one->self_);
    }
    mutex.unlock();
  }
};

namespace {

// Constant-initialised and never destroyed: a fork may come as early as the first static object,
// and as late as exit.
constinit AtForkList list;

int register_once() noexcept {
  return ::pthread_atfork([] { list.prepare(); }, [] { list.after(&AtFork::Hooks::in_parent); },
                          [] { list.after(&AtFork::Hooks::in_child); });
}

}  // namespace

AtFork::AtFork(Level level, void* self, Hooks hooks) : level_(level), self_(self), hooks_(hooks) {
  const std::lock_guard lock(list.mutex);
  if (!list.registered) {
    const int error = register_once();
    if (error != 0) throw SystemError(error, "pthread_atfork");
    list.registered = true;
  }
  list.insert(*this);
}

AtFork::~AtFork() {
  const std::lock_guard lock(list.mutex);
  list.remove(*this);
}

}  // namespace uffd
