// The guard's loop: takes targets from the manager, gives them back when it asks, and acts when it
// dies.
#pragma once

#include <poll.h>
#include <sys/types.h>

#include <array>
#include <span>

#include "engine/guard/protocol.hpp"
#include "engine/linux/packet_socket.hpp"
#include "guard/adopted_threads.hpp"
#include "guard/kept_target.hpp"
#include "guard/poisoning.hpp"

namespace uffd::guard {

class Keeper {
 public:
  // Of targets. Their places are reserved at the start, and take no memory until they are used.
  static constexpr size_t kMost = 16384;

  Keeper();
  Keeper(const Keeper&) = delete;
  Keeper& operator=(const Keeper&) = delete;

  // Returns when the manager has died, or is done, and nothing is kept any more.
  void run(pid_t manager);

 private:
  // False when the manager has died.
  bool take_message() noexcept;
  void keep(Received<GuardMessage>& received) noexcept;
  void let_go(uint64_t id) noexcept;
  void take_what_is_queued() noexcept;
  void await_first() noexcept;
  void settle_all() noexcept;
  void serve_the_rest() noexcept;
  void serve(size_t index) noexcept;
  void hand_over() noexcept;  // to whoever has connected
  void give_up() noexcept;    // waiting for the next manager
  void forget_what_others_own() noexcept;
  void tell(const KeptTarget& target, const Poisoning& poisoning, Result result) const noexcept;
  std::span<KeptTarget> kept() noexcept { return {targets_, count_}; }
  void remove(size_t index) noexcept;

  pid_t manager_ = 0;
  KeptTarget* targets_;
  pollfd* waited_;
  size_t count_ = 0;
  Fd listener_;               // at which the next manager is awaited
  uint64_t listens_for_ = 0;  // seconds after the death of this one; 0: for ever
  AdoptedThreads adopted_;
  Fd first_;  // a pidfd of the guard that acts before this one; or none
};

}  // namespace uffd::guard
