#include "workload/epoll_floor.hpp"

#include <array>

#include "engine/linux/uapi.hpp"

namespace uffd::workload {

EpollFloor::EpollFloor(std::vector<EpollFloorTarget> targets, uint64_t copies,
                       std::optional<Cpu> cpu)
    : targets_(std::move(targets)),
      copies_(copies),
      epoll_(or_throw(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")),
      crew_("floor", 1, cpu ? std::vector<Cpu>{*cpu} : std::vector<Cpu>{}) {
  for (EpollFloorTarget& target : targets_) {
    const int result = sys::epoll_add(epoll_.get(), target.fd, EPOLLIN, &target);
    if (result < 0) throw SystemError(-result, "epoll_ctl of a userfaultfd");
  }
}

void EpollFloor::start() {
  crew_.start([this](size_t) { serve(); });
}

void EpollFloor::join() {
  crew_.join();
}

void EpollFloor::serve() {
  std::array<epoll_event, 16> events;
  for (uint64_t copies = 0; copies < copies_;) {
    const int count =
        sys::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), -1);
    for (int i = 0; i < count; ++i) {
      copies +=
          copy(*static_cast<const EpollFloorTarget*>(events[static_cast<size_t>(i)].data.ptr));
    }
  }
}

// False where there was no message, or another thread's fault had the page installed by then.
bool EpollFloor::copy(const EpollFloorTarget& target) const {
  uffd_msg message;
  const ssize_t bytes = sys::read(target.fd, &message, sizeof message);
  if (bytes == -EAGAIN) return false;
  if (bytes != ssize_t{sizeof message})
    throw SystemError(static_cast<int>(-bytes), "read of a userfaultfd");
  uffdio_copy request{};
  request.dst = message.arg.pagefault.address;
  request.src = target.source + (request.dst - target.start);
  request.len = sys::page_size();
  int error = sys::ioctl(target.fd, UFFDIO_COPY, &request);
  if (error == 0) return true;
  if (error == -EEXIST) {
    uffdio_range range{request.dst, request.len};
    error = sys::ioctl(target.fd, UFFDIO_WAKE, &range);
  }
  if (error < 0)
    throw SystemError(-error, "UFFDIO_COPY of " + range_text(request.dst, request.len));
  return false;
}

}  // namespace uffd::workload
