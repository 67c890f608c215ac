// The manager's end of its guard: the process that holds a second reference to every target that
// this process serves for another one, and acts when this process dies.
//
// One guard a process, for all its managers; started with the first target that wants one, and
// ended with the process. A guard that was killed, or does not answer, is replaced. Where two were
// asked for, the second one acts when this process and the first one are dead.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>

#include "engine/guard/guard_process.hpp"
#include "engine/guard/ledger.hpp"
#include "engine/guard/protocol.hpp"
#include "engine/linux/at_fork.hpp"
#include "engine/linux/fork_closed_fd.hpp"

namespace uffd {

class GuardLink {
 public:
  // Tells the guards that this process has had apart; 0: none.
  using Generation = uint64_t;

  GuardLink() = default;
  GuardLink(const GuardLink&) = delete;
  GuardLink& operator=(const GuardLink&) = delete;

  // Starts as many guards as are wanted, one or two, unless they run. Throws SystemError.
  void start(const GuardProgram& program, size_t guards = 1);
  // Starts another one where the guard has ended; false where that cannot be. Takes about a
  // millisecond then, and no lock that a fork may hold.
  bool look() noexcept;

  // Has the next manager awaited at a listening socket, of which a copy is kept for later guards,
  // for so many seconds after this one's death; 0: for ever. Throws SystemError.
  void listen(int listener, uint64_t seconds);

  // Has the guard give threads their masks back if this process dies, from an AdoptionLedger's
  // memory, which stays the caller's until forget_masks() is called with the number that this
  // returns. The guard runs already. Throws SystemError.
  uint64_t keep_masks(int ledger);
  void forget_masks(uint64_t number) noexcept;

  // The number of this process as an owner of targets. Any thread.
  uint64_t owner() noexcept;
  // What the guard holds of a target; completion: see Completion, or -1.
  struct Held {
    int uffd, ledger, completion;
  };
  // Has the guard hold a target. Any thread; no lock. 0 where it could not be told.
  Generation keep(uint64_t target, const Held& held, AfterDeath after) noexcept;
  Generation generation() const noexcept { return generation_.load(std::memory_order_acquire); }
  // Waits until the guard has let go of a target, or holds nothing any more. By the ender.
  void let_go(uint64_t target) noexcept;

 private:
  std::span<GuardProcess> guards() noexcept { return {guards_.data(), count_}; }
  std::span<const GuardProcess> guards() const noexcept { return {guards_.data(), count_}; }
  bool all_run() const noexcept;
  void start_locked();
  static void tell(const GuardMessage& message, int descriptor, const GuardProcess& guard,
                   const char* failure);
  void send_listener();
  void send_masks(uint64_t number, int ledger);

  // Held while the guard is asked or replaced, never by a handler that serves faults.
  std::mutex asking_;
  GuardProgram program_;
  std::array<GuardProcess, 2> guards_;
  std::atomic<size_t> count_{0};  // of those that are wanted
  ForkClosedFd listener_;
  uint64_t listens_for_ = 0;       // seconds
  std::map<uint64_t, int> masks_;  // ledgers of adopted threads, by number
  uint64_t last_masks_ = 0;
  std::atomic<Generation> generation_{0};
  std::atomic<uint64_t> owner_{0};  // 0: not chosen yet

  AtFork at_fork_{AtFork::Level::guard,
                  this,
                  {.prepare = [](void* self) noexcept { of(self).asking_.lock(); },
                   .in_parent = [](void* self) noexcept { of(self).asking_.unlock(); },
                   .in_child = [](void* self) noexcept { of(self).forget_in_child(); }}};

  static GuardLink& of(void* self) noexcept { return *static_cast<GuardLink*>(self); }
  void forget_in_child() noexcept;
};

// Of this process.
GuardLink& guard_link() noexcept;

}  // namespace uffd
