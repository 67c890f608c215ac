#include "engine/linux/blank.hpp"

#include <exception>

#include "engine/linux/syscall.hpp"

namespace uffd {
namespace {

uint64_t map(int protection) noexcept {
  void* address =
      ::mmap(nullptr, kBlankLength, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED) std::terminate();  // no address space: nothing else would work either
  return reinterpret_cast<uint64_t>(address);
}

}  // namespace

uint64_t zeros_address() noexcept {
  static const uint64_t address = map(PROT_READ);
  return address;
}

uint64_t unreadable_address() noexcept {
  static const uint64_t address = map(PROT_NONE);
  return address;
}

}  // namespace uffd
