// A target as the guard holds it: a second reference to its userfaultfd, and its ledger.
//
// Used by the only thread of the guard. Allocates nothing.
#pragma once

#include <cstdint>

#include "engine/guard/ledger_layout.hpp"
#include "engine/guard/protocol.hpp"
#include "engine/linux/fd.hpp"

namespace uffd::guard {

class KeptTarget {
 public:
  KeptTarget() = default;
  // By the message that it came with.
  KeptTarget(const GuardMessage& message, Fd uffd, Fd memory, Fd completion) noexcept;
  KeptTarget(KeptTarget&& other) noexcept { swap(other); }
  KeptTarget& operator=(KeptTarget&& other) noexcept {
    swap(other);
    return *this;
  }
  ~KeptTarget();

  uint64_t id() const noexcept { return id_; }
  AfterDeath after() const noexcept { return after_; }
  int uffd() const noexcept { return uffd_.get(); }
  int memory() const noexcept { return memory_.get(); }
  int completion() const noexcept { return completion_.get(); }  // or -1
  // Whether the target is still, or already, that of this guard's manager.
  bool is_ours() const noexcept;
  // Nothing is left to be done for it, by a second guard either.
  void disown() noexcept {
    if (ledger_) ledger_->owner = 0;
  }
  // Whether the address space is no more; installs nothing.
  bool is_gone() const noexcept;
  // nullptr where it cannot be mapped, or is none.
  LedgerHeader* ledger() const noexcept { return ledger_; }

  // Pages [first, end) of the target that are neither settled nor poisoned for sure: missing ones,
  // and those that are to be poisoned. The next such run from a page on; empty at the end.
  struct Run {
    uint64_t first, end;
  };
  Run next_unsafe(uint64_t from, uint64_t end) const noexcept;
  // Memory between two places, from an address on; or the rest of the place at that address, as an
  // empty gap at its end.
  struct Gap {
    uint64_t start, end;
  };
  Gap gap(uint64_t from, uint64_t end) const noexcept;
  Place& place(uint64_t slot) const noexcept;
  uint64_t used_places() const noexcept;
  // Notes that pages lie at another place, too. False where no slot is left.
  bool add_place(PlaceFacts facts, uint64_t length) noexcept;

 private:
  void swap(KeptTarget& other) noexcept;
  PageWords words(uint64_t offset) const noexcept;
  bool is_unsafe(uint64_t page) const noexcept;

  uint64_t id_ = 0;
  uint64_t owner_ = 0;
  AfterDeath after_ = AfterDeath::poison;
  Fd uffd_;
  Fd memory_;
  Fd completion_;
  LedgerHeader* ledger_ = nullptr;
};

}  // namespace uffd::guard
