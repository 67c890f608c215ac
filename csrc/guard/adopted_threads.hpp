// The threads that the manager has adopted (serve/adoption): when it dies, they get their affinity
// masks back.
//
// Used by the only thread of the guard. Allocates nothing: a child of the guard gives the masks
// back, which takes memory, and holds nothing else of the guard's.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "engine/linux/fd.hpp"

namespace uffd::guard {

class AdoptedThreads {
 public:
  // One ledger for each manager of the process.
  static constexpr size_t kMost = 64;

  // False where there is no place.
  bool keep(uint64_t number, Fd ledger) noexcept;
  void forget(uint64_t number) noexcept;
  // Does not wait for it.
  void give_masks_back() noexcept;

 private:
  struct Kept {
    uint64_t number = 0;  // 0: free
    Fd ledger;
  };

  void close_all_else() noexcept;  // of a child

  std::array<Kept, kMost> kept_;
};

}  // namespace uffd::guard
