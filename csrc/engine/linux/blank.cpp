#include "engine/linux/blank.hpp"

#include <atomic>

#include "engine/linux/error.hpp"
#include "engine/linux/syscall.hpp"

namespace uffd {
namespace {

std::atomic<uint64_t> zeros{0};
std::atomic<uint64_t> unreadable{0};

// Two threads may map at once: the later one gives its memory back. No lock, so that a fork child
// can go on from any state.
void map_once(std::atomic<uint64_t>& address, int protection) {
  if (address.load(std::memory_order_acquire) != 0) return;
  constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* const mapped = ::mmap(nullptr, kBlankLength, protection, flags, -1, 0);
  if (mapped == MAP_FAILED)
    throw SystemError(errno,
                      "cannot map 1 GiB of address space, which needs no memory: raise RLIMIT_AS");
  uint64_t none = 0;
  if (!address.compare_exchange_strong(none, reinterpret_cast<uint64_t>(mapped)))
    ::munmap(mapped, kBlankLength);
}

}  // namespace

void map_blanks() {
  map_once(zeros, PROT_READ);
  map_once(unreadable, PROT_NONE);
}

uint64_t zeros_address() noexcept {
  return zeros.load(std::memory_order_acquire);
}

uint64_t unreadable_address() noexcept {
  return unreadable.load(std::memory_order_acquire);
}

}  // namespace uffd
