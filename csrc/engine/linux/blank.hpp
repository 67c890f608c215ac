// Memory of this process that is never written: zeros to copy from, and what cannot be read. They
// take address space only, once per process.
#pragma once

#include <cstdint>

namespace uffd {

// As long as the largest page of any hugetlb pool.
inline constexpr uint64_t kBlankLength = uint64_t{1} << 30;

// Maps both ranges. A thread that may fail calls this before any thread resolves faults. Throws
// SystemError where address space is short (RLIMIT_AS).
void map_blanks();

// Any thread, and signal handlers. Both are 0 before map_blanks(): to copy from there is EINVAL or
// EFAULT.
uint64_t zeros_address() noexcept;       // readable; the kernel maps its zero page
uint64_t unreadable_address() noexcept;  // to read there is EFAULT

}  // namespace uffd
