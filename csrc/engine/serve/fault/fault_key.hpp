// A fault in one word, so that a batch is sorted and freed of duplicates as numbers: the address of
// its page, and those of its flags that say how to resolve the fault. Pure.
#pragma once

#include <compare>
#include <cstdint>

#include "engine/linux/syscall.hpp"
#include "engine/linux/uapi.hpp"

namespace uffd {

class FaultKey {
 public:
  FaultKey() = default;
  explicit FaultKey(const uffd_msg& message) noexcept
      : word_((message.arg.pagefault.address & ~(sys::page_size() - 1)) |
              (message.arg.pagefault.flags & kFlags)) {}

  uint64_t address() const noexcept { return word_ & ~kFlags; }
  bool is_write() const noexcept { return (word_ & UFFD_PAGEFAULT_FLAG_WP) != 0; }
  bool is_minor() const noexcept { return (word_ & UFFD_PAGEFAULT_FLAG_MINOR) != 0; }
  bool is_like(FaultKey other) const noexcept { return ((word_ ^ other.word_) & kFlags) == 0; }

  auto operator<=>(const FaultKey&) const = default;

 private:
  static constexpr uint64_t kFlags = UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_MINOR;

  uint64_t word_ = 0;
};

}  // namespace uffd
