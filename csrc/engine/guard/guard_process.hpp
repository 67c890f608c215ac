// A guard of this process: how it is started, and told something.
//
// It is no child of this process: whoever waits for children of his own does not meet it. send()
// is any thread's, and takes no lock; the rest is under the lock of the GuardLink.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <string>

#include "engine/guard/protocol.hpp"
#include "engine/linux/fork_closed_fd.hpp"
#include "engine/linux/packet_socket.hpp"

namespace uffd {

// fd: the program, opened by whoever started this process with more rights; -1: by its path.
struct GuardProgram {
  std::string path;
  int fd = -1;
};

class GuardProcess {
 public:
  GuardProcess() = default;
  GuardProcess(const GuardProcess&) = delete;
  GuardProcess& operator=(const GuardProcess&) = delete;

  // Where one has ended, starts another. Throws SystemError.
  void start(const GuardProgram& program);
  bool runs() const noexcept;
  int pidfd() const noexcept { return process_.get(); }

  // 0 or -errno.
  int send(const GuardMessage& message, std::span<const int> descriptors,
           int flags = 0) const noexcept {
    return send_packet(socket_number_.load(std::memory_order_acquire), message, descriptors, flags);
  }
  // Waits until it has let go of a target; one that does not answer is killed.
  void let_go(uint64_t target) noexcept;

  void forget_in_child() noexcept;

 private:
  bool answers_hello(int socket);
  bool await_let_gone(uint64_t target) noexcept;
  void give_up() noexcept;

  // Its number stays the same when the guard is replaced, so that send() takes no lock.
  ForkClosedFd socket_;
  std::atomic<int> socket_number_{-1};
  Fd process_;  // a pidfd
};

}  // namespace uffd
