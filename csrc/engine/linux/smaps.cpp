#include "engine/linux/smaps.hpp"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <string>

namespace uffd {
namespace {

bool overlaps(std::span<const Range> ranges, uint64_t start, uint64_t end) {
  const auto first = std::partition_point(
      ranges.begin(), ranges.end(), [start](const Range& range) { return range.end() <= start; });
  return first != ranges.end() && first->start < end;
}

bool has_userfaultfd_flag(const std::string& flags_line) {
  for (const char* flag : {" um", " uw", " ui"}) {
    if (flags_line.find(flag) != std::string::npos) return true;
  }
  return false;
}

}  // namespace

std::optional<bool> any_registered(pid_t pid, std::span<const Range> ranges) {
  const std::string process = pid == 0 ? "self" : std::to_string(pid);
  std::ifstream file("/proc/" + process + "/smaps");
  bool inside = false;
  bool read_any = false;
  for (std::string line; std::getline(file, line);) {
    unsigned long long start = 0, end = 0;
    if (line.rfind("VmFlags:", 0) == 0) {
      if (inside && has_userfaultfd_flag(line)) return true;
    } else if (std::sscanf(line.c_str(), "%llx-%llx ", &start, &end) == 2) {
      inside = overlaps(ranges, start, end);
      read_any = true;
    }
  }
  if (!read_any) return std::nullopt;
  return false;
}

}  // namespace uffd
