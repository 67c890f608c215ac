// Where a target waits to be told that nothing of it is missing any more: its end of a connection,
// on which this end writes one line and hangs up. To hang up without a line says that the target
// ended with pages missing, or that nobody serves it.
#pragma once

#include "engine/linux/fork_closed_fd.hpp"

namespace uffd {

class Completion {
 public:
  Completion() = default;
  // A copy of the descriptor. Throws SystemError.
  explicit Completion(int socket);

  int fd() const noexcept { return socket_.get(); }
  // Both wait for nobody but a fork. By the ender; tell() does nothing the second time.
  void tell(const char* ending, uint64_t poisoned_bytes) noexcept;
  void hang_up() noexcept { socket_.close(); }

 private:
  ForkClosedFd socket_;
};

}  // namespace uffd
