// The threads whose affinity masks a manager has changed, with the masks that they had: in memory
// that the guard shares, so that the threads get their masks back when the manager is killed.
//
// Each entry is written by the handler that holds its thread, then by the ender that gives its mask
// back; the guard reads the entries when the manager's process has ended.
#pragma once

#include <sched.h>
#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <span>

#include "engine/linux/fd.hpp"

namespace uffd {

class AdoptionLedger {
 public:
  static constexpr size_t kEntries = 1024;

  struct Entry {
    enum State : uint32_t { unused, reserved, held, leaving };
    std::atomic<uint32_t> state;
    int cpu;              // where the thread is held
    pid_t process;        // of the target
    pid_t thread;         // its id in this process's pid namespace
    uint64_t started;     // in ticks, see start_ticks()
    uint64_t adopted_at;  // in ticks: a thread that began before has not inherited the changed mask
    cpu_set_t mask;       // that the thread had, or would have inherited

    // Whether the mask is still to be given back.
    bool tells() const noexcept { return state.load(std::memory_order_acquire) >= held; }
  };

  // A new ledger; or, from its descriptor, the ledger of another process.
  AdoptionLedger();
  explicit AdoptionLedger(Fd memory);
  AdoptionLedger(const AdoptionLedger&) = delete;
  AdoptionLedger& operator=(const AdoptionLedger&) = delete;
  ~AdoptionLedger();

  int fd() const noexcept { return memory_.get(); }

  // Holds a thread of the process on the CPU, if the thread's mask admits that, and notes its mask.
  // nullptr where the thread is not held: it is gone, or may not run there, or the ledger is full.
  // A thread that is held already, for another target, gets its mask back with the last of its
  // entries. Throws std::bad_alloc.
  Entry* hold(pid_t process, pid_t thread, int cpu);
  // Gives these threads their masks back, and then their heirs: threads of their processes, and of
  // the fork children of those, that began since and are held to the same CPU.
  void give_back(std::span<Entry* const> entries);
  // Gives back all masks: by the guard, when nobody else uses the ledger.
  void give_back_all();

 private:
  using Table = std::array<Entry, kEntries>;

  // The mask that a thread shall have in the end, where that is not the mask that it has: found in
  // another entry of the same thread, or of a thread that it may have inherited its mask from.
  std::optional<cpu_set_t> mask_due_to(pid_t process, pid_t thread, uint64_t started,
                                       const cpu_set_t& mask) const;
  // Whether an entry that stays holds the same thread.
  bool held_besides(const Entry& entry) const noexcept;
  bool holds(pid_t thread) const noexcept;
  // Gives the heirs their masks back of this entry and all with the same process, CPU and mask, of
  // which since is the earliest adopted_at.
  void free_heirs(const Entry& entry, uint64_t since);
  // Whether the thread's mask was changed back.
  static bool restore(pid_t thread, const Entry& entry) noexcept;

  Fd memory_;
  Table* table_ = nullptr;
};

}  // namespace uffd
