#include "workload/floor_server.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/linux/error.hpp"
#include "engine/linux/syscall.hpp"
#include "workload/pattern.hpp"

namespace uffd::workload {
namespace {

void check(const FloorServerPlan& plan) {
  require_page_size(plan.page_size);
  if (plan.window == 0) throw std::invalid_argument("window must be at least 1");
  if (plan.copies == 0) throw std::invalid_argument("copies must be at least 1");
  const int flags = or_throw(::fcntl(plan.fd, F_GETFL), "fcntl(F_GETFL)");
  const bool blocking = (flags & O_NONBLOCK) == 0;
  if (blocking != (plan.reader == Reader::read)) {
    throw std::invalid_argument(blocking ? "this reader needs a userfaultfd with O_NONBLOCK"
                                         : "this reader needs a userfaultfd without O_NONBLOCK");
  }
}

std::vector<Cpu> list(const std::optional<Cpu>& cpu) {
  return cpu ? std::vector<Cpu>{*cpu} : std::vector<Cpu>{};
}

}  // namespace

FloorServer::FloorServer(const FloorServerPlan& plan)
    : plan_(plan), crew_("floor", 1 + plan.workers, list(plan.cpu)) {
  check(plan_);
}

void FloorServer::start() {
  crew_.start([this](size_t thread) {
    if (thread > 0) return work();
    plan_.workers == 0 ? serve() : read_for_workers();
  });
}

FloorServed FloorServer::join() {
  crew_.join();
  return served_;
}

void FloorServer::serve() {
  uffd_msg message;
  receive(message);
  const uint64_t start = sys::monotonic_ns();
  uint64_t copies = copy_around(message.arg.pagefault.address);
  uint64_t faults = 1;
  for (; copies < plan_.copies; ++faults) {
    receive(message);
    copies += copy_around(message.arg.pagefault.address);
  }
  served_ = {sys::monotonic_ns() - start, faults};
}

void FloorServer::read_for_workers() {
  uffd_msg message;
  uint64_t start = 0;
  for (uint64_t faults = 0; faults < plan_.copies; ++faults) {
    receive(message);
    if (faults == 0) start = sys::monotonic_ns();
    {
      const std::lock_guard lock(mutex_);
      addresses_.push_back(message.arg.pagefault.address);
      all_given_ = faults + 1 == plan_.copies;
    }
    all_given_ ? given_.notify_all() : given_.notify_one();
  }
  served_ = {sys::monotonic_ns() - start, plan_.copies};
}

void FloorServer::work() {
  for (;;) {
    std::unique_lock lock(mutex_);
    given_.wait(lock, [this] { return all_given_ || !addresses_.empty(); });
    if (addresses_.empty()) return;
    const uint64_t address = addresses_.front();
    addresses_.pop_front();
    lock.unlock();
    copy_around(address);
  }
}

void FloorServer::receive(uffd_msg& message) const {
  for (;;) {
    if (plan_.reader == Reader::poll) {
      pollfd readable{plan_.fd, POLLIN, 0};
      (void)::poll(&readable, 1, -1);
    }
    const ssize_t bytes = sys::read(plan_.fd, &message, sizeof message);
    if (bytes == ssize_t{sizeof message}) return;
    if (bytes != -EAGAIN) throw SystemError(static_cast<int>(-bytes), "read of the userfaultfd");
  }
}

// False where the window was installed by then, for another thread's fault.
bool FloorServer::copy_around(uint64_t address) const {
  const uint64_t bytes = plan_.window * plan_.page_size;
  const uint64_t offset = (address - plan_.start) / bytes * bytes;
  uffdio_copy request{};
  request.dst = plan_.start + offset;
  request.src = plan_.source + offset;
  request.len = std::min(bytes, plan_.length - offset);
  int error = sys::ioctl(plan_.fd, UFFDIO_COPY, &request);
  if (error == 0) return true;
  if (error == -EEXIST) {
    uffdio_range range{request.dst, request.len};
    error = sys::ioctl(plan_.fd, UFFDIO_WAKE, &range);
  }
  if (error < 0)
    throw SystemError(-error, "UFFDIO_COPY of " + range_text(request.dst, request.len));
  return false;
}

}  // namespace uffd::workload
