#include "engine/serve/served/completion.hpp"

#include <fcntl.h>
#include <sys/socket.h>

#include <array>
#include <cinttypes>
#include <cstdio>

#include "engine/linux/error.hpp"

namespace uffd {

Completion::Completion(int socket)
    : socket_([socket] { return sys::or_errno(::fcntl(socket, F_DUPFD_CLOEXEC, 3)); }) {
  if (socket_.get() < 0) throw SystemError(-socket_.get(), "completion cannot be duplicated");
}

void Completion::tell(const char* ending, uint64_t poisoned_bytes) noexcept {
  if (!socket_) return;
  std::array<char, 128> line;
  const int length = std::snprintf(line.data(), line.size(),
                                   "{\"ending\": \"%s\", \"poisoned_bytes\": %" PRIu64 "}\n",
                                   ending, poisoned_bytes);
  // Whoever does not read is not waited for.
  (void)!::send(socket_.get(), line.data(), static_cast<size_t>(length),
                MSG_DONTWAIT | MSG_NOSIGNAL);
  hang_up();
}

}  // namespace uffd
