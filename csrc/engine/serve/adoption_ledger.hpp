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
#include <span>

#include "engine/linux/fd.hpp"

namespace uffd {

class AdoptionLedger {
 public:
  static constexpr size_t kEntries = 1024;

  struct Entry {
    enum State : uint32_t { unused, reserved, held };
    std::atomic<uint32_t> state;
    int cpu;              // where it is held
    pid_t process;        // of the target
    pid_t thread;         // by its id here
    uint64_t started;     // in ticks, see start_ticks()
    uint64_t adopted_at;  // in ticks: what began before did not inherit its mask from here
    cpu_set_t mask;       // that it had
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
  Entry* hold(pid_t process, pid_t thread, int cpu) noexcept;
  // Gives these threads their masks back, and then whoever inherited one from them: threads of
  // their processes, and of the fork children of those, that began since, and are held to the same
  // CPU.
  void give_back(std::span<Entry* const> entries);
  // All that are held: by the watcher, when nobody else uses the ledger.
  void give_back_all();

 private:
  using Table = std::array<Entry, kEntries>;

  bool holds(pid_t thread) const noexcept;
  void free_heirs(const Entry& entry);

  Fd memory_;
  Table* table_ = nullptr;
};

}  // namespace uffd
