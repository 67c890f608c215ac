// Has the guard give adopted threads their masks back if this process is killed.
#pragma once

#include "engine/guard/adoption_ledger.hpp"
#include "engine/guard/guard_link.hpp"

namespace uffd {

class GuardedMasks {
 public:
  // Starts the guard, unless it runs. The ledger outlives this. Throws SystemError.
  GuardedMasks(const GuardProgram& program, const AdoptionLedger& ledger) {
    guard_link().start(program);
    number_ = guard_link().keep_masks(ledger.fd());
  }
  GuardedMasks(const GuardedMasks&) = delete;
  GuardedMasks& operator=(const GuardedMasks&) = delete;
  ~GuardedMasks() { guard_link().forget_masks(number_); }

 private:
  uint64_t number_ = 0;
};

}  // namespace uffd
