// What a target's sources could not supply: the first failures, and how many there were.
//
// Any thread and any signal handler may note one, which neither locks nor allocates.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/target/cause.hpp"

namespace uffd {

struct SourceFailure {
  Blame blame{Cause::unreadable};
  uint64_t offset = 0;   // in the source
  uint64_t address = 0;  // in the target
  uint64_t length = 0;   // of whole pages
};

class SourceFailures {
 public:
  static constexpr size_t kKept = 8;

  void note(const SourceFailure& failure) noexcept {
    const uint64_t place = noted_.fetch_add(1, std::memory_order_relaxed);
    if (place >= kKept) return;
    slots_[place].failure = failure;
    slots_[place].whole.store(true, std::memory_order_release);
  }

  // How many were noted, and not all of them are kept.
  uint64_t noted() const noexcept { return noted_.load(std::memory_order_relaxed); }
  std::vector<SourceFailure> kept() const {
    std::vector<SourceFailure> kept;
    for (const Slot& slot : slots_) {
      if (slot.whole.load(std::memory_order_acquire)) kept.push_back(slot.failure);
    }
    return kept;
  }

 private:
  struct Slot {
    SourceFailure failure;  // constant once it is whole
    std::atomic<bool> whole{false};
  };

  std::atomic<uint64_t> noted_{0};
  std::array<Slot, kKept> slots_;
};

}  // namespace uffd
