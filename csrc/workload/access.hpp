// One access to memory, which the compiler can neither drop nor turn into one of another kind.
#pragma once

#include <cstdint>

namespace uffd::workload {

// address: a multiple of 8, here and below.
inline void touch_for_read(uint64_t address) noexcept {
  (void)__atomic_load_n(reinterpret_cast<const volatile uint64_t*>(address), __ATOMIC_RELAXED);
}

// Leaves the bytes as they are; a missing page takes a write fault and no read fault before it.
inline void touch_for_write(uint64_t address) noexcept {
  // Hidden from the compiler, which may turn an atomic or with a known 0 into a load.
  uint64_t nothing = 0;
  asm("" : "+r"(nothing));
  __atomic_fetch_or(reinterpret_cast<volatile uint64_t*>(address), nothing, __ATOMIC_RELAXED);
}

}  // namespace uffd::workload
