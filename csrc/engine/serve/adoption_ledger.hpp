// The threads whose affinity masks a manager has changed, with the masks they had: in memory that
// another process shares, so that they get them back when the manager is killed.
//
// Each entry is written by the handler that holds its thread, or by whoever gives it back when that
// has let go; the watcher reads them when the manager is no more.
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
    int cpu;              // where it is held
    pid_t process;        // of the target
    pid_t thread;         // by its id here
    uint64_t started;     // in ticks, see start_ticks()
    uint64_t adopted_at;  // in ticks: what began before did not inherit its mask from here
    cpu_set_t mask;       // that it had, or would have inherited

    // Whether the mask is still to be given back.
    bool tells() const noexcept { return state.load(std::memory_order_acquire) >= held; }
  };

  // A new one, or, from a descriptor of it, that of another process.
  AdoptionLedger();
  explicit AdoptionLedger(Fd memory);
  AdoptionLedger(const AdoptionLedger&) = delete;
  AdoptionLedger& operator=(const AdoptionLedger&) = delete;
  ~AdoptionLedger();

  int fd() const noexcept { return memory_.get(); }

  // Holds the thread of a process on the CPU, if its mask admits that, and notes what mask it had.
  // nullptr where it was not done: the thread is gone, or may not be there, or the ledger is full.
  // A thread that is held already, for another target, is given back with the last of its entries.
  Entry* hold(pid_t process, pid_t thread, int cpu) noexcept;
  // Gives these threads their masks back, and then whoever inherited one from them: threads of
  // their processes, and of the fork children of those, that began since, and are held to the same
  // CPU.
  void give_back(std::span<Entry* const> entries);
  // All that are held: by the watcher, when nobody else uses the ledger.
  void give_back_all();

 private:
  using Table = std::array<Entry, kEntries>;

  // The mask that a thread shall have in the end, where it is not the one that it has: by another
  // entry of the same thread, or of whom it may have inherited this one from.
  std::optional<cpu_set_t> mask_due_to(pid_t process, pid_t thread, uint64_t started,
                                       const cpu_set_t& mask) const noexcept;
  // Whether an entry that stays holds the same thread.
  bool held_besides(const Entry& entry) const noexcept;
  bool holds(pid_t thread) const noexcept;
  // Of this entry and all like it, the first of which is so old.
  void free_heirs(const Entry& entry, uint64_t since);
  // Whether it was changed back.
  static bool restore(pid_t thread, const Entry& entry) noexcept;

  Fd memory_;
  Table* table_ = nullptr;
};

}  // namespace uffd
