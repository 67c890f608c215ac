#include "engine/linux/pagemap_scan.hpp"

#include <array>
#include <string>

#include "engine/linux/fd.hpp"
#include "engine/linux/uapi.hpp"

namespace uffd {
namespace {

std::string refusal(int error, const Range& range) {
  const std::string text = "PAGEMAP_SCAN of " + range_text(range.start, range.length);
  switch (error) {
    case EPERM:
      return text +
             ": the memory is not registered for write-protect faults: register it with a "
             "userfaultfd that has the feature WP_ASYNC";
    case ENOTTY:
      return text + ": this kernel does not have PAGEMAP_SCAN (Linux 6.7)";
    default:
      return text;
  }
}

void append(std::vector<Range>& ranges, const uffd_pagemap_region& region) {
  if (!ranges.empty() && ranges.back().end() == region.start) {
    ranges.back().length = region.end - ranges.back().start;
  } else {
    ranges.push_back({region.start, region.end - region.start});
  }
}

}  // namespace

std::vector<Range> scan_written(pid_t pid, const Range& range, bool protect) {
  const std::string path = "/proc/" + (pid == 0 ? "self" : std::to_string(pid)) + "/pagemap";
  const Fd file(sys::open(path.c_str(), O_RDONLY));
  if (!file) throw SystemError(-file.get(), "cannot open " + path);
  std::array<uffd_pagemap_region, 512> found;
  std::vector<Range> written;
  uffd_pagemap_scan request{};
  request.size = sizeof request;
  request.flags = UFFD_PAGEMAP_CHECK_WPASYNC | (protect ? UFFD_PAGEMAP_WP_MATCHING : 0);
  request.start = range.start;
  request.end = range.end();
  request.vec = reinterpret_cast<uint64_t>(found.data());
  request.vec_len = found.size();
  request.category_mask = UFFD_PAGEMAP_WRITTEN;
  request.return_mask = UFFD_PAGEMAP_WRITTEN;
  while (request.start < request.end) {
    const int count = sys::ioctl(file.get(), UFFD_PAGEMAP_SCAN, &request);
    if (count < 0) throw SystemError(-count, refusal(-count, range));
    for (int i = 0; i < count; ++i) append(written, found[static_cast<size_t>(i)]);
    request.start = request.walk_end;
  }
  return written;
}

}  // namespace uffd
