// Transparent huge pages: asks the kernel to put memory into them.
#pragma once

#include <cstdint>

#include "engine/linux/range.hpp"

namespace uffd {

// The size of a transparent huge page, in bytes; 0 where this kernel has none.
uint64_t huge_page_size() noexcept;

// Whether this process gets huge pages where it asks by MADV_HUGEPAGE.
bool huge_pages_admitted() noexcept;

// Whether MADV_COLLAPSE (Linux 6.1) may be asked for: 0; -EINVAL where the kernel does not know it;
// -EPERM without CAP_SYS_NICE for another process, named by its pidfd. pidfd -1 is this process.
int may_collapse(int pidfd) noexcept;

// Has the kernel make one huge page of each stretch of the range that has the place and size of
// one. Returns how many bytes of the range are in huge pages now.
uint64_t collapse(int pidfd, const Range& range) noexcept;

}  // namespace uffd
