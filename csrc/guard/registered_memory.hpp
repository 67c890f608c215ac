// The registered mappings of a target, one after the other, from its /proc/PID/smaps.
//
// Used by the only thread of the guard. Allocates nothing.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "engine/linux/fd.hpp"

namespace uffd::guard {

class RegisteredMemory {
 public:
  struct Mapping {
    uint64_t start, end, page_size;  // no mapping: start == end
  };

  explicit RegisteredMemory(pid_t pid) noexcept;

  // Whether smaps may be read. Memory of whichever userfaultfd is told, and of a process that has
  // the pid by now: the ioctls of the target's userfaultfd do nothing to it.
  bool readable() const noexcept { return smaps_.get() >= 0; }
  Mapping next() noexcept;

 private:
  // What is beyond the room for a line is left out. Empty at the end.
  std::string_view next_line() noexcept;
  bool read_more() noexcept;

  Fd smaps_;
  std::array<char, 4096> read_;
  size_t at_ = 0, count_ = 0;
  std::array<char, 256> line_;
};

}  // namespace uffd::guard
