#include "engine/guard/guard_link.hpp"

#include <fcntl.h>
#include <sys/random.h>

#include <algorithm>
#include <array>

#include "engine/linux/error.hpp"

namespace uffd {
namespace {

// Made when the library is loaded, since the guard of a function's static object is a lock that a
// fork may find taken. Never destroyed: a fork may come as late as exit.
GuardLink& link = *new GuardLink;

}  // namespace

GuardLink& guard_link() noexcept {
  return link;
}

void GuardLink::start(const GuardProgram& program, size_t guards) {
  const std::lock_guard lock(asking_);
  program_ = program;
  count_ = std::max(count_.load(), guards);
  if (!all_run()) start_locked();
}

bool GuardLink::look() noexcept {
  const std::unique_lock lock(asking_, std::try_to_lock);
  if (!lock) return true;  // somebody is about it
  if (generation() == 0) return false;
  if (all_run()) return true;
  try {
    start_locked();
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

bool GuardLink::all_run() const noexcept {
  return std::ranges::all_of(guards(), [](const GuardProcess& guard) { return guard.runs(); });
}

// Those that run are told again, which does nothing.
void GuardLink::start_locked() {
  for (GuardProcess& guard : guards()) {
    if (!guard.runs()) guard.start(program_);
  }
  if (count_ > 1) {
    tell({.kind = GuardMessage::Kind::stand_in}, guards_[0].pidfd(), guards_[1],
         "cannot tell the second guard of the first");
  }
  generation_.fetch_add(1, std::memory_order_acq_rel);
  if (listener_) send_listener();
  for (const auto& [number, ledger] : masks_) send_masks(number, ledger);
}

void GuardLink::tell(const GuardMessage& message, int descriptor, const GuardProcess& guard,
                     const char* failure) {
  const std::array<int, 1> descriptors{descriptor};
  const int error = guard.send(message, descriptors);
  if (error < 0) throw SystemError(-error, failure);
}

uint64_t GuardLink::keep_masks(int ledger) {
  const std::lock_guard lock(asking_);
  const uint64_t number = ++last_masks_;
  masks_.emplace(number, ledger);
  try {
    send_masks(number, ledger);
  } catch (...) {
    masks_.erase(number);
    throw;
  }
  return number;
}

void GuardLink::forget_masks(uint64_t number) noexcept {
  const std::lock_guard lock(asking_);
  if (masks_.erase(number) == 0) return;  // this is a fork child
  for (const GuardProcess& guard : guards()) {
    guard.send({.kind = GuardMessage::Kind::forget_masks, .target = number}, {}, MSG_DONTWAIT);
  }
}

void GuardLink::send_masks(uint64_t number, int ledger) {
  for (const GuardProcess& guard : guards()) {
    tell({.kind = GuardMessage::Kind::keep_masks, .target = number}, ledger, guard,
         "cannot tell the guard of adopted threads");
  }
}

void GuardLink::listen(int listener, uint64_t seconds) {
  const std::lock_guard lock(asking_);
  listens_for_ = seconds;
  listener_ =
      ForkClosedFd([listener] { return sys::or_errno(::fcntl(listener, F_DUPFD_CLOEXEC, 3)); });
  if (listener_.get() < 0) throw SystemError(-listener_.get(), "fcntl(F_DUPFD_CLOEXEC)");
  if (generation() != 0) send_listener();
}

void GuardLink::send_listener() {
  for (const GuardProcess& guard : guards()) {
    tell({.kind = GuardMessage::Kind::listen, .target = listens_for_}, listener_.get(), guard,
         "cannot tell the guard where the next manager comes");
  }
}

// By chance, so that no two processes have the same.
uint64_t GuardLink::owner() noexcept {
  uint64_t known = owner_.load(std::memory_order_acquire);
  if (known != 0) return known;
  uint64_t chosen = 0;
  while (::getrandom(&chosen, sizeof chosen, 0) != sizeof chosen || chosen == 0) {
  }
  return owner_.compare_exchange_strong(known, chosen) ? chosen : known;
}

GuardLink::Generation GuardLink::keep(uint64_t target, const Held& held,
                                      AfterDeath after) noexcept {
  const Generation current = generation();
  const std::array<int, 3> all{held.uffd, held.ledger, held.completion};
  const std::span<const int> descriptors(all.data(), held.completion < 0 ? 2 : 3);
  const GuardMessage message{GuardMessage::Kind::keep, after, target, owner()};
  bool told = current != 0;
  for (const GuardProcess& guard : guards())
    told = guard.send(message, descriptors, MSG_DONTWAIT) == 0 && told;
  return told ? current : 0;
}

void GuardLink::let_go(uint64_t target) noexcept {
  const std::lock_guard lock(asking_);
  for (GuardProcess& guard : guards()) guard.let_go(target);
}

// The child has no guard: its parent's serves the parent alone.
void GuardLink::forget_in_child() noexcept {
  generation_ = 0;
  owner_ = 0;
  for (GuardProcess& guard : guards_) guard.forget_in_child();
  count_ = 0;
  listener_ = ForkClosedFd();
  masks_.clear();
  asking_.unlock();
}

}  // namespace uffd
