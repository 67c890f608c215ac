#include "workload/floor.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "engine/linux/error.hpp"
#include "engine/linux/mapping.hpp"
#include "engine/linux/syscall.hpp"
#include "engine/linux/uapi.hpp"
#include "workload/access.hpp"
#include "workload/crew.hpp"
#include "workload/pattern.hpp"

namespace uffd::workload {
namespace {

void require_chunk(uint64_t chunk) {
  if (chunk == 0) throw std::invalid_argument("chunk must be at least 1");
}

void copy_part(const BulkCopyPlan& plan, uint64_t offset, uint64_t end) {
  for (; offset < end; offset += plan.chunk) {
    uffdio_copy request{};
    request.dst = plan.start + offset;
    request.src = plan.source + offset;
    request.len = std::min(plan.chunk, end - offset);
    const int error = sys::ioctl(plan.fd, UFFDIO_COPY, &request);
    if (error < 0)
      throw SystemError(-error, "UFFDIO_COPY of " + range_text(request.dst, request.len));
  }
}

void unregister_and_wake(int fd, const Range& range) {
  uffdio_range request{range.start, range.length};
  int error = sys::ioctl(fd, UFFDIO_UNREGISTER, &request);
  if (error == 0) error = sys::ioctl(fd, UFFDIO_WAKE, &request);
  if (error < 0) {
    throw SystemError(-error, "UNREGISTER and WAKE of " + range_text(range.start, range.length));
  }
}

}  // namespace

uint64_t bulk_copy(const BulkCopyPlan& plan) {
  require_chunk(plan.chunk);
  Crew crew("bulk-copy", plan.threads, plan.cpus);
  const uint64_t chunks = (plan.length + plan.chunk - 1) / plan.chunk;
  const auto part_start = [&](size_t thread) {
    return std::min(chunks * thread / plan.threads * plan.chunk, plan.length);
  };
  crew.start([&](size_t thread) { copy_part(plan, part_start(thread), part_start(thread + 1)); });
  uint64_t first = UINT64_MAX, last = 0;
  for (const Shift& shift : crew.join()) {
    first = std::min(first, shift.start_ns);
    last = std::max(last, shift.end_ns);
  }
  return last - first;
}

uint64_t bulk_continue(int fd, uint64_t start, uint64_t length, uint64_t chunk) {
  require_chunk(chunk);
  const uint64_t began = sys::monotonic_ns();
  for (uint64_t offset = 0; offset < length; offset += chunk) {
    uffdio_continue request{};
    request.range = {start + offset, std::min(chunk, length - offset)};
    const int error = sys::ioctl(fd, UFFDIO_CONTINUE, &request);
    if (error < 0) {
      throw SystemError(-error,
                        "UFFDIO_CONTINUE of " + range_text(request.range.start, request.range.len));
    }
  }
  return sys::monotonic_ns() - began;
}

uint64_t close_fd(int fd) {
  const uint64_t start = sys::monotonic_ns();
  or_throw(::close(fd), "close");
  return sys::monotonic_ns() - start;
}

uint64_t unregister_and_close(int fd, const std::vector<Range>& ranges) {
  const uint64_t start = sys::monotonic_ns();
  for (const Range& range : ranges) unregister_and_wake(fd, range);
  or_throw(::close(fd), "close");
  return sys::monotonic_ns() - start;
}

uint64_t memcpy_floor(uint64_t destination, uint64_t source, uint64_t length) noexcept {
  const uint64_t start = sys::monotonic_ns();
  std::memcpy(reinterpret_cast<void*>(destination), reinterpret_cast<const void*>(source), length);
  return sys::monotonic_ns() - start;
}

uint64_t read_floor(int fd, uint64_t destination, uint64_t length, uint64_t chunk) {
  require_chunk(chunk);
  const uint64_t start = sys::monotonic_ns();
  for (uint64_t done = 0; done < length;) {
    const ssize_t bytes =
        or_throw(::pread(fd, reinterpret_cast<void*>(destination + done),
                         std::min(chunk, length - done), static_cast<off_t>(done)),
                 "pread");
    if (bytes == 0)
      throw std::invalid_argument("the file ends after " + std::to_string(done) + " bytes");
    done += static_cast<uint64_t>(bytes);
  }
  return sys::monotonic_ns() - start;
}

uint64_t native_touch(uint64_t address, uint64_t length, uint64_t page_size) {
  require_page_size(page_size);
  const uint64_t start = sys::monotonic_ns();
  for (uint64_t offset = 0; offset < length; offset += page_size) touch_for_write(address + offset);
  return sys::monotonic_ns() - start;
}

void release_pages(uint64_t address, uint64_t length) {
  const int error = sys::madvise(address, length, MADV_DONTNEED);
  if (error < 0) throw SystemError(-error, "MADV_DONTNEED of " + range_text(address, length));
}

void warm(uint64_t length) {
  const Mapping mapping(length, MemoryKind::anonymous, false);
  native_touch(mapping.address(), mapping.length(), mapping.page_size());
}

}  // namespace uffd::workload
