#include "engine/linux/huge_pages.hpp"

#include <sys/prctl.h>
#include <sys/uio.h>

#include <charconv>
#include <string_view>

#include "engine/linux/fd.hpp"

#ifndef MADV_COLLAPSE  // Linux 6.1
#define MADV_COLLAPSE 25
#endif
#ifndef SYS_process_madvise  // Linux 5.10
#define SYS_process_madvise 440
#endif

namespace uffd {
namespace {

int advise(int pidfd, uint64_t start, uint64_t length) noexcept {
  if (pidfd < 0) return sys::madvise(start, length, MADV_COLLAPSE);
  const iovec range{reinterpret_cast<void*>(start), length};
  const long advised =
      ::syscall(SYS_process_madvise, pidfd, &range, length > 0 ? 1 : 0, MADV_COLLAPSE, 0);
  return advised < 0 ? -errno : 0;
}

}  // namespace

uint64_t huge_page_size() noexcept {
  const Fd file(sys::open("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", O_RDONLY));
  char text[32];
  const ssize_t length = file ? sys::read(file.get(), text, sizeof text) : 0;
  uint64_t size = 0;
  if (length > 0) std::from_chars(text, text + length, size);
  return size;
}

bool huge_pages_admitted() noexcept {
  const Fd file(sys::open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY));
  char text[64];
  const ssize_t length = file ? sys::read(file.get(), text, sizeof text) : 0;
  if (length <= 0 || ::prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) != 0) return false;
  const std::string_view modes(text, static_cast<size_t>(length));
  return modes.find("[never]") == std::string_view::npos;
}

int may_collapse(int pidfd) noexcept {
  if (huge_page_size() == 0) return -EINVAL;
  return advise(pidfd, 0, 0);
}

uint64_t collapse(int pidfd, const Range& range) noexcept {
  const uint64_t size = huge_page_size();
  uint64_t collapsed = 0;
  if (size == 0) return 0;
  // One at a time: of a longer range the kernel does not tell how much it could.
  for (uint64_t start = (range.start + size - 1) / size * size; start + size <= range.end();
       start += size) {
    if (advise(pidfd, start, size) == 0) collapsed += size;
  }
  return collapsed;
}

}  // namespace uffd
