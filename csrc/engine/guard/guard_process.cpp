#include "engine/guard/guard_process.hpp"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

#include <array>

#include "engine/linux/error.hpp"
#include "engine/linux/mapping.hpp"
#include "engine/linux/pidfd.hpp"

extern char** environ;
// glibc's clone(2) by its other name: ThreadSanitizer takes the call of the first one for a fork.
extern "C" int __clone(int (*run)(void*), void* stack, int flags, void* argument, ...);

namespace uffd {
namespace {

// How long a guard may take to answer, before it is replaced: it may be stopped by a debugger.
constexpr int kAnswerMs = 1000;
constexpr uint64_t kStackBytes = 64 * 1024;

// Above the numbers that the guard gets, so that no descriptor is overwritten before it is
// duplicated.
Fd out_of_the_way(int fd) {
  return Fd(or_throw(::fcntl(fd, F_DUPFD_CLOEXEC, 16), "fcntl(F_DUPFD_CLOEXEC)"));
}

Fd opened(const GuardProgram& program) {
  if (program.fd >= 0) return out_of_the_way(program.fd);
  const Fd file(::open(program.path.c_str(), O_RDONLY | O_CLOEXEC));
  return file ? out_of_the_way(file.get()) : Fd();
}

[[noreturn]] void refuse(int error, const std::string& path, const std::string& what) {
  throw SystemError(error, what + " " + path +
                               ", which acts when this process is killed: give guard=None, and no "
                               "placement 'adopt', to serve without a guard");
}

// All signals are blocked as long as it lives.
class BlockedSignals {
 public:
  BlockedSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  BlockedSignals(const BlockedSignals&) = delete;
  BlockedSignals& operator=(const BlockedSignals&) = delete;
  ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

struct Start {
  int program, socket, manager;
  int error = 0;
};

// In a child that shares this memory, until it executes the program: by its descriptor, since this
// user may not reach its path any more. By system calls alone, and without what sanitizers add:
// they would take what it does for this process's.
[[gnu::no_sanitize("thread"), gnu::no_sanitize("address"), gnu::no_sanitize("undefined")]]
int execute(void* argument) noexcept {
  Start& start = *static_cast<Start*>(argument);
  static constexpr char name[] = "pyuffd-guard";
  char* const arguments[] = {const_cast<char*>(name), nullptr};
  // A session of its own: what is sent to the manager's terminal or group does not reach it.
  ::syscall(SYS_setsid);
  if (::syscall(SYS_dup3, start.socket, kGuardSocket, 0) >= 0 &&
      ::syscall(SYS_dup3, start.manager, kGuardManager, 0) >= 0) {
    constexpr int by_descriptor = 0x1000;  // AT_EMPTY_PATH
    ::syscall(SYS_execveat, start.program, "", arguments, environ, by_descriptor);
  }
  start.error = errno;
  ::syscall(SYS_exit_group, 127);
  return 127;
}

// The pid, or -errno. Not vfork(2): sanitizers make a fork of it, whose hooks take locks that this
// thread holds.
pid_t spawn(Start start) {
  const Mapping stack(kStackBytes, MemoryKind::anonymous, false);
  auto* const top = reinterpret_cast<std::byte*>(stack.address() + stack.length());
  const BlockedSignals blocked;  // in the child, too, and in what it executes
  const pid_t child = ::__clone(execute, top, CLONE_VM | CLONE_VFORK | SIGCHLD, &start);
  if (child < 0) return -errno;
  if (start.error == 0) return child;
  ::waitpid(child, nullptr, 0);
  return -start.error;
}

// It ends as soon as its child, the guard, has begun.
void start_program(const GuardProgram& program, int socket) {
  const Fd file = opened(program);
  if (!file) refuse(errno, program.path, "cannot open the guard");
  const Fd manager = open_pidfd(::getpid());
  if (!manager) throw SystemError(errno, "cannot open a pidfd of this process (Linux 5.3)");
  const Fd sent_socket = out_of_the_way(socket), sent_manager = out_of_the_way(manager.get());
  const pid_t starter = spawn({file.get(), sent_socket.get(), sent_manager.get()});
  if (starter < 0) refuse(-starter, program.path, "cannot start the guard");
  int status = 0;
  pid_t ended;
  while ((ended = ::waitpid(starter, &status, 0)) < 0 && errno == EINTR) {
  }
  // Where SIGCHLD is ignored the kernel keeps no status: the guard's first word tells.
  if (ended == starter && status != 0) refuse(ECHILD, program.path, "the guard ended at once:");
}

}  // namespace

void GuardProcess::start(const GuardProgram& program) {
  int ends[2];
  or_throw(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), "socketpair");
  Fd ours(ends[0]), theirs(ends[1]);
  start_program(program, theirs.get());
  theirs.close();
  if (!answers_hello(ours.get())) refuse(ECHILD, program.path, "the guard did not begin:");
  if (!socket_) {
    socket_ = ForkClosedFd([&] { return ours.release(); });
    socket_number_.store(socket_.get(), std::memory_order_release);
  } else {
    or_throw(::dup3(ours.get(), socket_.get(), O_CLOEXEC), "dup3");
  }
}

bool GuardProcess::answers_hello(int socket) {
  pollfd waited{socket, POLLIN, 0};
  while (::poll(&waited, 1, kAnswerMs) < 0 && errno == EINTR) {
  }
  auto hello = receive_packet<GuardMessage>(socket, MSG_DONTWAIT);
  if (hello.bytes <= 0 || !hello.descriptors[0]) return false;
  process_ = std::move(hello.descriptors[0]);
  return true;
}

bool GuardProcess::runs() const noexcept {
  if (!process_) return false;
  pollfd waited{process_.get(), POLLIN, 0};
  return ::poll(&waited, 1, 0) <= 0;
}

void GuardProcess::let_go(uint64_t target) noexcept {
  if (!runs()) return;
  const GuardMessage message{.kind = GuardMessage::Kind::let_go, .target = target};
  if (send(message, {}, MSG_DONTWAIT) == 0 && await_let_gone(target)) return;
  give_up();
}

bool GuardProcess::await_let_gone(uint64_t target) noexcept {
  const uint64_t give_up_at = sys::monotonic_ns() + uint64_t{kAnswerMs} * 1'000'000;
  for (uint64_t now; (now = sys::monotonic_ns()) < give_up_at;) {
    pollfd waited{socket_.get(), POLLIN, 0};
    if (::poll(&waited, 1, static_cast<int>((give_up_at - now) / 1'000'000) + 1) <= 0) continue;
    const auto answer = receive_packet<GuardMessage>(socket_.get(), MSG_DONTWAIT);
    if (answer.bytes == 0) return true;  // it has ended, and holds nothing
    if (answer.bytes > 0 && answer.packet.kind == GuardMessage::Kind::let_gone &&
        answer.packet.target == target)
      return true;
  }
  return false;
}

// It holds userfaultfds that are about to be closed. A process that is stopped can be killed.
void GuardProcess::give_up() noexcept {
  ::syscall(SYS_pidfd_send_signal, process_.get(), SIGKILL, nullptr, 0);
  pollfd waited{process_.get(), POLLIN, 0};
  while (::poll(&waited, 1, kAnswerMs) < 0 && errno == EINTR) {
  }
}

void GuardProcess::forget_in_child() noexcept {
  socket_number_ = -1;
  process_.close();
  socket_ = ForkClosedFd();
}

}  // namespace uffd
