#include "engine/serve/handler/message_wait.hpp"

#include <algorithm>

namespace uffd {
namespace {

// For epoll_wait, rounded up.
int milliseconds(uint64_t nanoseconds) noexcept {
  constexpr uint64_t longest_ms = 60'000;
  return static_cast<int>(std::min((nanoseconds + 999'999) / 1'000'000, longest_ms));
}

}  // namespace

MessageWait::MessageWait(int commands, Wakefulness* keeper)
    : epoll_(or_throw(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")), vigil_(keeper) {
  const int result = sys::epoll_add(epoll_.get(), commands, EPOLLIN, nullptr);
  if (result < 0) throw SystemError(-result, "epoll_ctl of a handler's eventfd");
}

int MessageWait::add(Charge& charge) noexcept {
  return sys::epoll_add(epoll_.get(), charge.served->target.uffd().fd(), EPOLLIN | EPOLLET,
                        &charge);
}

// Where this fails the lookout notices the death of the process a little later.
void MessageWait::add_process(Charge& charge) noexcept {
  if (!charge.served->process) return;
  void* const tagged = reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(&charge) | kProcessTag);
  sys::epoll_add(epoll_.get(), charge.served->process.get(), EPOLLIN | EPOLLET, tagged);
}

void MessageWait::remove(Charge& charge) noexcept {
  sys::epoll_remove(epoll_.get(), charge.served->target.uffd().fd());
}

void MessageWait::remove_all_of(Charge& charge) noexcept {
  remove(charge);
  if (charge.served->process) sys::epoll_remove(epoll_.get(), charge.served->process.get());
}

int MessageWait::wait_events(uint64_t nanoseconds, bool spins) noexcept {
  const auto wait = [&](int timeout_ms) {
    return sys::epoll_wait(epoll_.get(), events_.data(), static_cast<int>(events_.size()),
                           timeout_ms);
  };
  const int timeout_ms = milliseconds(nanoseconds);
  if (timeout_ms == 0) return wait(0);
  if (!spins) {
    vigil_.sleeps();
  } else if (const int count = vigil_.watch([&] { return wait(0); }); count != 0) {
    return count;
  }
  return wait(timeout_ms);
}

}  // namespace uffd
