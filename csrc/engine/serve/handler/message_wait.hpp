// How a handler waits for the messages of its targets: it spins where that pays, else sleeps in
// epoll_wait(2). Used by the handler's thread alone.
#pragma once

#include <array>
#include <span>

#include "engine/linux/fd.hpp"
#include "engine/serve/awake/vigil.hpp"
#include "engine/serve/handler/charge.hpp"

namespace uffd {

class MessageWait {
 public:
  // commands: the descriptor of the handler's mailbox, which is waited for, too. keeper: see Vigil.
  // Throws SystemError.
  MessageWait(int commands, Wakefulness* keeper);

  // 0 or -errno. The set is edge-triggered: a short read drains a queue, and every later fault is
  // an edge.
  int add(Charge& charge) noexcept;
  void add_process(Charge& charge) noexcept;
  void remove(Charge& charge) noexcept;
  void remove_all_of(Charge& charge) noexcept;

  // Waits; calls ready(charge) for charges with messages, and ended(charge) for charges whose
  // process has ended. Returns whether there are commands.
  template <typename Ready, typename Ended>
  bool wait(uint64_t nanoseconds, bool spins, Ready ready, Ended ended);

  Vigil& vigil() noexcept { return vigil_; }

 private:
  static constexpr uintptr_t kProcessTag = 1;
  static_assert(alignof(Charge) > kProcessTag);

  int wait_events(uint64_t nanoseconds, bool spins) noexcept;

  Fd epoll_;
  Vigil vigil_;
  std::array<epoll_event, 16> events_;
};

template <typename Ready, typename Ended>
bool MessageWait::wait(uint64_t nanoseconds, bool spins, Ready ready, Ended ended) {
  bool commands = false;
  const int count = wait_events(nanoseconds, spins);
  for (int i = 0; i < count; ++i) {
    const auto data = reinterpret_cast<uintptr_t>(events_[static_cast<size_t>(i)].data.ptr);
    if (data == 0) {
      commands = true;
    } else if (data & kProcessTag) {
      ended(*reinterpret_cast<Charge*>(data & ~kProcessTag));
    } else {
      ready(*reinterpret_cast<Charge*>(data));
    }
  }
  return commands;
}

}  // namespace uffd
