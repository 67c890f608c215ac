// pyuffd-guard: a process that holds a second reference to the targets of a manager. When the
// manager dies, it poisons what they miss, so that nobody reads zeros.
//
// Started by pyuffd (engine/guard/guard_link.cpp). It is no child of the manager, ignores what ends
// a service, and allocates nothing after its start.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>

#include "guard/keeper.hpp"

namespace uffd::guard {
namespace {

bool is_started_by_manager() noexcept {
  return ::fcntl(kGuardSocket, F_GETFD) >= 0 && ::fcntl(kGuardManager, F_GETFD) >= 0;
}

// The manager waits for the starter alone, whose child this process is.
void leave_the_manager() noexcept {
  const pid_t child = ::fork();
  if (child == 0) return;
  ::_exit(child > 0 ? 0 : 1);
}

void ignore_signals() noexcept {
  sigset_t all;
  sigfillset(&all);
  ::sigprocmask(SIG_BLOCK, &all, nullptr);
}

void spare_me_when_memory_is_short() noexcept {
  const Fd score(sys::open("/proc/self/oom_score_adj", O_WRONLY));
  if (score && ::write(score.get(), "-1000", 5) < 0) (void)!::write(score.get(), "0", 1);
}

void keep_no_stranger_open() noexcept {
  {
    const Fd nothing(sys::open("/dev/null", O_RDWR));
    for (const int standard : {STDIN_FILENO, STDOUT_FILENO}) ::dup2(nothing.get(), standard);
  }
  constexpr unsigned first = kGuardManager + 1;
  ::syscall(SYS_close_range, first, ~0u, 0);
  (void)!::chdir("/");
}

void allow_many_descriptors() noexcept {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) < 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

bool say_hello() noexcept {
  const Fd self(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
  const std::array<int, 1> descriptors{self.get()};
  return self && send_packet(kGuardSocket, GuardMessage{}, descriptors) == 0;
}

}  // namespace
}  // namespace uffd::guard

int main() {
  using namespace uffd::guard;
  if (!is_started_by_manager()) {
    std::fputs("pyuffd-guard is started by pyuffd, with a socket and a pidfd of its manager.\n",
               stderr);
    return 2;
  }
  const pid_t manager = ::getppid();
  ignore_signals();
  leave_the_manager();
  ::prctl(PR_SET_NAME, "pyuffd-guard");
  spare_me_when_memory_is_short();
  keep_no_stranger_open();
  allow_many_descriptors();
  Keeper keeper;
  if (!say_hello()) return 1;
  keeper.run(manager);
  return 0;
}
