// Adoption: holds the faulting threads of one target on the CPU of its handler, where neither the
// thread nor the handler wakes an idle CPU: a fault takes a fifth of the time then.
//
// It pays as long as it saves more wake-up time than it costs: held threads cannot compute in
// parallel. review() decides. With n threads, whose faults follow one another at the handler, f
// faults save f / n times two wake-ups; and the CPU time C that the threads took could have been
// spent on min(n, CPUs) CPUs at once. So the threads are let go while C * (1 - 1 / min(n, CPUs)) >
// f / n * kWakeUpsNs, and held again when the left side is less than half of the right one. Where
// no fault comes, nothing is saved: the threads are let go until the next fault.
//
// Belongs to the handler, and after it to the ender; held(), adopted(), releases() and cpu() are
// for any thread.
#pragma once

#include <atomic>
#include <span>
#include <vector>

#include "engine/guard/adoption_ledger.hpp"
#include "engine/linux/thread.hpp"
#include "engine/linux/uapi.hpp"

namespace uffd {

class Adoption {
 public:
  // Two wake-ups of idle CPUs, with some to spare: a fault takes 43 us where threads are free and
  // 8.9 us where they are adopted (docs/results, Linux 6.18 on a virtual machine with 2 CPUs).
  static constexpr uint64_t kWakeUpsNs = 20'000;
  static constexpr uint64_t kReviewNs = 50'000'000;

  // process: whose threads fault. Throws std::invalid_argument or UnsupportedError where they
  // cannot be held on this CPU.
  Adoption(AdoptionLedger& ledger, pid_t process, Cpu cpu);
  ~Adoption() { let_go(); }

  // Sees the threads of these faults; may adopt some of them, or let go of all held threads.
  void see(std::span<const uffd_msg> messages, uint64_t now) noexcept;
  // Called every now and then as long as threads are held: lets go of them where no faults come.
  void review_when_due(uint64_t now) noexcept;

  // Gives every thread its mask back, and adopts none from then on.
  void let_go();

  // Any thread.
  uint64_t held() const noexcept { return held_.load(std::memory_order_relaxed); }
  uint64_t adopted() const noexcept { return adopted_.load(std::memory_order_relaxed); }
  uint64_t releases() const noexcept { return releases_.load(std::memory_order_relaxed); }
  int cpu() const noexcept { return cpu_.number(); }

 private:
  struct Known {
    uint32_t own_id = 0;                     // the thread's id in its own pid namespace
    pid_t thread = 0;                        // 0: not found
    uint64_t cpu_ns = 0;                     // at the last review
    AdoptionLedger::Entry* entry = nullptr;  // while it is held
    bool refused = false;                    // could not be held; until the next review
  };
  static constexpr size_t kMostKnown = 256;

  // The following functions throw std::bad_alloc.
  void meet(uint32_t own_id);
  void hold(Known& known);
  void review();
  bool pays(uint64_t faults);
  bool is_gone(Known& known);
  void give_back_all();

  AdoptionLedger& ledger_;
  const pid_t process_;
  const Cpu cpu_;
  std::vector<Known> known_;
  uint32_t last_seen_ = 0;
  uint64_t faults_ = 0;  // since the last review
  uint64_t review_at_ = 0;
  bool holding_ = true;
  bool ended_ = false;
  std::atomic<uint64_t> held_{0}, adopted_{0}, releases_{0};
};

}  // namespace uffd
