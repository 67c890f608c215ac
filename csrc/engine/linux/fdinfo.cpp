#include "engine/linux/fdinfo.hpp"

#include <cstdio>
#include <fstream>
#include <string>

namespace uffd {

std::optional<FdInfo> read_fdinfo(int fd) {
  std::ifstream file("/proc/self/fdinfo/" + std::to_string(fd));
  FdInfo info;
  bool pending = false, total = false, api = false;
  for (std::string line; std::getline(file, line);) {
    unsigned long long value = 0, version = 0;
    if (std::sscanf(line.c_str(), "pending: %llu", &value) == 1) {
      info.pending = value;
      pending = true;
    } else if (std::sscanf(line.c_str(), "total: %llu", &value) == 1) {
      info.total = value;
      total = true;
    } else if (std::sscanf(line.c_str(), "API: %llx:%llx", &version, &value) == 2) {
      info.features = value;
      api = true;
    }
  }
  if (!pending || !total || !api) return std::nullopt;
  return info;
}

}  // namespace uffd
