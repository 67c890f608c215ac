#include "engine/linux/maps.hpp"

#include <cstdio>
#include <fstream>
#include <string>

namespace uffd {

std::optional<std::vector<Range>> shared_mappings(pid_t pid) {
  const std::string process = pid == 0 ? "self" : std::to_string(pid);
  std::ifstream file("/proc/" + process + "/maps");
  std::vector<Range> shared;
  bool read_any = false;
  for (std::string line; std::getline(file, line); read_any = true) {
    unsigned long long start = 0, end = 0;
    char kind = 0;
    if (std::sscanf(line.c_str(), "%llx-%llx %*c%*c%*c%c", &start, &end, &kind) == 3 && kind == 's')
      shared.push_back({start, end - start});
  }
  if (!read_any) return std::nullopt;
  return shared;
}

}  // namespace uffd
