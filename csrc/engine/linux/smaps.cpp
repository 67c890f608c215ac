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

// Calls visit(vma) for each registered VMA, until it returns false. Whether smaps may be read.
template <typename Visit>
bool for_each_registered(pid_t pid, Visit visit) {
  const std::string process = pid == 0 ? "self" : std::to_string(pid);
  std::ifstream file("/proc/" + process + "/smaps");
  Range vma;
  bool read_any = false;
  for (std::string line; std::getline(file, line);) {
    unsigned long long start = 0, end = 0;
    if (line.rfind("VmFlags:", 0) == 0) {
      if (has_userfaultfd_flag(line) && !visit(vma)) return true;
    } else if (std::sscanf(line.c_str(), "%llx-%llx ", &start, &end) == 2) {
      vma = {start, end - start};
      read_any = true;
    }
  }
  return read_any;
}

}  // namespace

std::optional<bool> any_registered(pid_t pid, std::span<const Range> ranges) {
  bool found = false;
  const bool read = for_each_registered(pid, [&](const Range& vma) {
    found = overlaps(ranges, vma.start, vma.end());
    return !found;
  });
  if (!read) return std::nullopt;
  return found;
}

std::optional<std::vector<Range>> registered_mappings(pid_t pid) {
  std::vector<Range> found;
  const bool read = for_each_registered(pid, [&](const Range& vma) {
    found.push_back(vma);
    return true;
  });
  if (!read) return std::nullopt;
  return found;
}

}  // namespace uffd
