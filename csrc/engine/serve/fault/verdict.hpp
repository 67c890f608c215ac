// The one table of what an errno of COPY, ZEROPAGE, CONTINUE, WRITEPROTECT or POISON means. Pure.
#pragma once

#include <cerrno>

namespace uffd {

// The policy: what an errno of COPY, ZEROPAGE, CONTINUE, WRITEPROTECT or POISON, with nothing done,
// says about the page it stopped at.
enum class Verdict {
  present,  // something is installed there already; the kernel woke nobody for it
  absent,   // not in one registered VMA: unmapped or let go by the target, or the run lies in
            // several VMAs
  again,    // mmap_changing is raised, or memory is short
  gone,     // the address space is no more
  refused,  // the source is unreadable there, or the kernel cannot do it
};

inline Verdict judge(int error) noexcept {
  switch (-error) {
    case EEXIST:
      return Verdict::present;
    case ENOENT:
      return Verdict::absent;
    case EAGAIN:
    case ENOMEM:
    case EINTR:
      return Verdict::again;
    case ESRCH:
      return Verdict::gone;
    default:
      return Verdict::refused;
  }
}

}  // namespace uffd
