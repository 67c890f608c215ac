#include "engine/linux/holders.hpp"

#include <filesystem>
#include <string>

#include "engine/linux/syscall.hpp"

namespace uffd {
namespace {

namespace fs = std::filesystem;

Holders compare_descriptors(int own_fd, pid_t pid) {
  const pid_t self = ::getpid();
  std::error_code error;
  const fs::path directory = "/proc/" + std::to_string(pid) + "/fd";
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    const int fd = std::stoi(entry->path().filename());
    if (pid == self && fd == own_fd) continue;
    std::error_code unreadable;
    if (fs::read_symlink(entry->path(), unreadable) != "anon_inode:[userfaultfd]") continue;
    const int order = sys::kcmp_file(self, own_fd, pid, fd);
    if (order == 0) return Holders::shared;
    if (order < 0 && order != -EBADF && order != -ESRCH) return Holders::unknown;
  }
  const bool dead = error == std::errc::no_such_file_or_directory;
  return error && !dead ? Holders::unknown : Holders::sole;
}

// Processes that may not be looked at are passed over: unprivileged, that would be most.
bool held_by_any(int own_fd) {
  std::error_code error;
  for (fs::directory_iterator entry("/proc", error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const pid_t pid = std::stoi(name);
    if (pid != ::getpid() && compare_descriptors(own_fd, pid) == Holders::shared) return true;
  }
  return false;
}

}  // namespace

Holders find_holders(int fd, pid_t pid) {
  const Holders here = compare_descriptors(fd, ::getpid());
  if (here != Holders::sole || pid == 0 || pid == ::getpid()) return here;
  const Holders target = compare_descriptors(fd, pid);
  return target == Holders::sole && held_by_any(fd) ? Holders::shared : target;
}

}  // namespace uffd
