// uffd_msg decoded into a typed value. Pure: knows no descriptor.
#pragma once

#include <cstdint>
#include <variant>

#include "engine/linux/uapi.hpp"

namespace uffd {

struct Fault {
  uint64_t address;  // page-aligned unless the feature EXACT_ADDRESS is on
  uint64_t flags;    // UFFD_PAGEFAULT_FLAG_WRITE, _WP, _MINOR
  uint32_t thread;   // in the target's pid namespace; 0 without the feature THREAD_ID
};
struct ForkEvent {
  int fd;  // the child's userfaultfd, made by read() in the reader's table: the reader owns it
};
struct RemapEvent {
  uint64_t from, to, length;
};
struct RemoveEvent {
  uint64_t start, end;
};
struct UnmapEvent {
  uint64_t start, end;
};
struct UnknownEvent {
  uint8_t event;
};

using Message = std::variant<Fault, ForkEvent, RemapEvent, RemoveEvent, UnmapEvent, UnknownEvent>;

inline Message decode(const uffd_msg& message) noexcept {
  switch (message.event) {
    case UFFD_EVENT_PAGEFAULT:
      return Fault{message.arg.pagefault.address, message.arg.pagefault.flags,
                   message.arg.pagefault.feat.ptid};
    case UFFD_EVENT_FORK:
      return ForkEvent{static_cast<int>(message.arg.fork.ufd)};
    case UFFD_EVENT_REMAP:
      return RemapEvent{message.arg.remap.from, message.arg.remap.to, message.arg.remap.len};
    case UFFD_EVENT_REMOVE:
      return RemoveEvent{message.arg.remove.start, message.arg.remove.end};
    case UFFD_EVENT_UNMAP:
      return UnmapEvent{message.arg.remove.start, message.arg.remove.end};
    default:
      return UnknownEvent{message.event};
  }
}

}  // namespace uffd
