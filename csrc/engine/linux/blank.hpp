// Memory of this process that is never written: zeros to copy from, and what cannot be read. They
// take address space only, once per process.
#pragma once

#include <cstdint>

namespace uffd {

// As long as the largest page of any hugetlb pool.
inline constexpr uint64_t kBlankLength = uint64_t{1} << 30;

// Maps both, by a thread that may fail: whoever resolves faults calls the other two only after
// that. Throws SystemError where address space is short (RLIMIT_AS).
void map_blanks();

// Any thread, and signal handlers. 0 before map_blanks(): to copy from there is EINVAL or EFAULT.
uint64_t zeros_address() noexcept;       // readable; the kernel maps its zero page
uint64_t unreadable_address() noexcept;  // to read there is EFAULT

}  // namespace uffd
