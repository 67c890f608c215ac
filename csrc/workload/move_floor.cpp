#include "workload/move_floor.hpp"

#include "engine/linux/error.hpp"
#include "engine/linux/huge_pages.hpp"
#include "engine/linux/mapping.hpp"
#include "engine/linux/range.hpp"
#include "engine/linux/syscall.hpp"
#include "engine/linux/uapi.hpp"

namespace uffd::workload {

uint64_t read_and_move(const MovePlan& plan) {
  const uint64_t huge = huge_page_size();
  if (huge == 0)
    throw UnsupportedError(EOPNOTSUPP, "this kernel has no transparent huge pages",
                           {"CONFIG_TRANSPARENT_HUGEPAGE"});
  const Mapping staging(2 * huge, MemoryKind::anonymous, false);
  sys::madvise(staging.address(), staging.length(), MADV_HUGEPAGE);
  const uint64_t from = (staging.address() + huge - 1) / huge * huge;
  const uint64_t began = sys::monotonic_ns();
  for (uint64_t offset = 0; offset < plan.length; offset += huge) {
    const ssize_t count =
        ::pread(plan.file, reinterpret_cast<void*>(from), huge, static_cast<off_t>(offset));
    if (count != static_cast<ssize_t>(huge)) throw SystemError(errno, "pread of a huge page");
    uffdio_move request{};
    request.dst = plan.start + offset;
    request.src = from;
    request.len = huge;
    int error = 0;
    // EBUSY: the device that has just read the page holds it a moment longer.
    while ((error = sys::ioctl(plan.fd, UFFDIO_MOVE, &request)) == -EBUSY) ::sched_yield();
    if (error < 0)
      throw SystemError(-error, "UFFDIO_MOVE of " + range_text(request.dst, request.len));
  }
  return sys::monotonic_ns() - began;
}

}  // namespace uffd::workload
