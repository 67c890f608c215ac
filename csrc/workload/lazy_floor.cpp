#include "workload/lazy_floor.hpp"

#include <poll.h>

#include <algorithm>

#include "engine/linux/error.hpp"
#include "engine/linux/syscall.hpp"
#include "engine/linux/uapi.hpp"

namespace uffd::workload {
namespace {

class LazyLoop {
 public:
  explicit LazyLoop(const LazyFloorPlan& plan)
      : plan_(plan), page_size_(sys::page_size()), buffer_(plan.chunk) {
    for (const Range& range : plan.ranges) {
      first_pages_.push_back(pages_);
      pages_ += range.length / page_size_;
    }
    installed_.resize(pages_);
  }

  void run() {
    for (uint64_t left = pages_; left > 0;) {
      uffd_msg message;
      left -= receive(message) ? answer(message.arg.pagefault.address) : fill();
    }
  }

 private:
  // Does not wait: there is always something to fill.
  bool receive(uffd_msg& message) const {
    pollfd readable{plan_.fd, POLLIN, 0};
    if (::poll(&readable, 1, 0) <= 0) return false;
    const ssize_t bytes = sys::read(plan_.fd, &message, sizeof message);
    if (bytes < 0 && bytes != -EAGAIN)
      throw SystemError(static_cast<int>(-bytes), "read of the userfaultfd");
    return bytes == ssize_t{sizeof message};
  }

  // Returns how many pages were installed.
  uint64_t answer(uint64_t address) {
    const auto after =
        std::partition_point(plan_.ranges.begin(), plan_.ranges.end(),
                             [address](const Range& range) { return range.end() <= address; });
    const auto number = static_cast<size_t>(after - plan_.ranges.begin());
    const uint64_t page = first_pages_[number] + (address - after->start) / page_size_;
    if (!installed_[page]) return install(number, page, page + 1);
    uffdio_range range{address & ~(page_size_ - 1), page_size_};
    sys::ioctl(plan_.fd, UFFDIO_WAKE, &range);
    return 0;
  }

  uint64_t fill() {
    while (installed_[next_]) ++next_;
    const auto after = std::upper_bound(first_pages_.begin(), first_pages_.end(), next_);
    const auto number = static_cast<size_t>(after - first_pages_.begin()) - 1;
    const uint64_t end_of_range = after == first_pages_.end() ? pages_ : *after;
    const uint64_t most = std::min(next_ + plan_.chunk / page_size_, end_of_range);
    uint64_t end = next_;
    while (end < most && !installed_[end]) ++end;
    return install(number, next_, end);
  }

  uint64_t install(size_t number, uint64_t first, uint64_t end) {
    const uint64_t length = (end - first) * page_size_;
    or_throw(::pread(plan_.file, buffer_.data(), length, static_cast<off_t>(first * page_size_)),
             "pread");
    uffdio_copy request{};
    request.dst = plan_.ranges[number].start + (first - first_pages_[number]) * page_size_;
    request.src = reinterpret_cast<uintptr_t>(buffer_.data());
    request.len = length;
    const int error = sys::ioctl(plan_.fd, UFFDIO_COPY, &request);
    if (error < 0)
      throw SystemError(-error, "UFFDIO_COPY of " + range_text(request.dst, request.len));
    std::fill_n(installed_.begin() + static_cast<int64_t>(first), end - first, true);
    return end - first;
  }

  const LazyFloorPlan& plan_;
  const uint64_t page_size_;
  std::vector<char> buffer_;
  std::vector<uint64_t> first_pages_;  // of each range
  std::vector<bool> installed_;
  uint64_t pages_ = 0, next_ = 0;
};

}  // namespace

uint64_t lazy_floor(const LazyFloorPlan& plan) {
  LazyLoop loop(plan);
  const uint64_t start = sys::monotonic_ns();
  loop.run();
  return sys::monotonic_ns() - start;
}

}  // namespace uffd::workload
