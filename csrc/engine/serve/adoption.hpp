// Holds the threads of one target that fault on the CPU of its handler, where neither wakes an idle
// CPU: a fault takes a fifth of the time then.
//
// It pays as long as what these threads compute is less than what it saves; review() decides. With
// n of them, whose faults follow one another at the handler, f faults save f / n times the two
// wake-ups of each; and the CPU time C that they took could have been spent on up to as many CPUs,
// of which they were kept. So they are let go while C * (1 - 1 / min(n, CPUs)) > f / n * kWakeUps,
// and taken again when it is less than half of that. Where no fault comes, nothing is saved: they
// are let go until the next.
//
// The handler's, but for what is said to be any thread's; when that has let go of the target, the
// ender's.
#pragma once

#include <atomic>
#include <span>
#include <vector>

#include "engine/linux/thread.hpp"
#include "engine/linux/uapi.hpp"
#include "engine/serve/adoption_ledger.hpp"

namespace uffd {

class Adoption {
 public:
  // Two wake-ups of idle CPUs: 25 to 45 us a fault where threads are free, 4 us where they are not
  // (Linux 6.18 on a virtual machine with 2 CPUs).
  static constexpr uint64_t kWakeUpsNs = 20'000;
  static constexpr uint64_t kReviewNs = 50'000'000;

  // The process whose threads fault. Throws std::invalid_argument or UnsupportedError where they
  // cannot be held on this CPU.
  Adoption(AdoptionLedger& ledger, pid_t process, Cpu cpu);
  ~Adoption() { let_go(); }

  // The threads of these faults; may adopt some, or let go of all.
  void see(std::span<const uffd_msg> messages, uint64_t now) noexcept;
  // Called every now and then as long as it holds any: lets go of them where no faults come.
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
    uint32_t own_id = 0;                     // in its pid namespace
    pid_t thread = 0;                        // 0: not found
    uint64_t cpu_ns = 0;                     // at the last review
    AdoptionLedger::Entry* entry = nullptr;  // while it is held
    bool refused = false;                    // it could not be held; until the next review
  };
  static constexpr size_t kMostKnown = 256;

  void meet(uint32_t own_id) noexcept;
  void hold(Known& known) noexcept;
  bool pays(uint64_t faults) noexcept;
  bool is_gone(Known& known) noexcept;
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
