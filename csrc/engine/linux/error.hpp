// The errors that the engine throws at construction and at calls of a user; never on the path of a
// fault.
#pragma once

#include <cerrno>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace uffd {

// The kernel refused: carries its errno and a text that names what was refused.
class SystemError : public std::system_error {
 public:
  SystemError(int error, const std::string& text);
  const std::string& text() const noexcept { return text_; }

 private:
  std::string text_;
};

// What would permit it, in the words of the kernel: "Linux 6.6", "CAP_SYS_PTRACE",
// "/dev/userfaultfd", "vm.unprivileged_userfaultfd=1", "CONFIG_HUGETLBFS", "seccomp". Static texts.
using Needs = std::vector<const char*>;

// What this kernel or this user cannot do; the text names what to change. Each of the needs is
// enough alone; there is none where no change of the system helps.
class UnsupportedError : public SystemError {
 public:
  UnsupportedError(int error, const std::string& text, Needs needs)
      : SystemError(error, text), needs_(std::move(needs)) {}
  const Needs& needs() const noexcept { return needs_; }

 private:
  Needs needs_;
};

// "0x7f..-0x7f.." of [start, start + length).
std::string range_text(unsigned long long start, unsigned long long length);

// "Operation not permitted" for EPERM.
std::string errno_text(int error);

// With the kernel's words for errno behind what was called.
[[noreturn]] void throw_errno(const char* what);

// For calls that set errno: throws SystemError where the result is negative.
template <typename Result>
Result or_throw(Result result, const char* what) {
  if (result < 0) throw_errno(what);
  return result;
}

}  // namespace uffd
