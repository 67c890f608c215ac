#include "engine/linux/task_state.hpp"

#include <cstdio>
#include <cstring>

#include "engine/linux/fd.hpp"

namespace uffd {

char task_state(pid_t tid) noexcept {
  char path[48], text[256];
  std::snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
  const Fd file(sys::open(path, O_RDONLY));
  const ssize_t length = file ? sys::read(file.get(), text, sizeof text - 1) : -1;
  if (length <= 0) return '?';
  text[length] = '\0';
  // "tid (name) state ...", and the name may hold anything.
  const char* after_name = std::strrchr(text, ')');
  return after_name && after_name[1] == ' ' ? after_name[2] : '?';
}

}  // namespace uffd
