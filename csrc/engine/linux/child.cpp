#include "engine/linux/child.hpp"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <exception>

#include "engine/linux/fd.hpp"

namespace uffd {
namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void be_child(pid_t parent, int fd, const std::function<void(int)>& work) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(1);  // the parent died before prctl took effect
  if (const Fd score(sys::open("/proc/self/oom_score_adj", O_WRONLY)); score)
    (void)!::write(score.get(), "1000", 4);
  try {
    work(fd);
  } catch (const std::exception& error) {
    const std::string what = error.what();
    (void)!::write(fd, what.data(), what.size());
    ::_exit(1);
  }
  ::_exit(0);
}

// Reads until all writers are gone; false when the deadline comes first.
bool read_all(int fd, Clock::time_point deadline, std::string& output) {
  for (;;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd waited{fd, POLLIN, 0};
    if (left <= 0) return false;
    if (::poll(&waited, 1, static_cast<int>(left)) <= 0) continue;  // the deadline, or a signal
    char text[4096];
    const ssize_t length = sys::read(fd, text, sizeof text);
    if (length == 0) return true;
    if (length > 0) output.append(text, static_cast<size_t>(length));
  }
}

}  // namespace

std::string text(const ChildOutcome& outcome, std::chrono::milliseconds limit) {
  switch (outcome.end) {
    case ChildOutcome::End::exited:
      return "exit code " + std::to_string(outcome.code);
    case ChildOutcome::End::signalled:
      return "signal " + std::to_string(outcome.code);
    case ChildOutcome::End::timed_out:
      break;
  }
  return "hung for " + std::to_string(limit.count() / 1000) + " s";
}

ChildOutcome run_in_child(std::chrono::milliseconds limit, const std::function<void(int)>& work) {
  int ends[2];
  or_throw(::pipe2(ends, O_CLOEXEC), "pipe2");
  Fd from_child(ends[0]), to_parent(ends[1]);
  const auto deadline = Clock::now() + limit;
  const pid_t parent = ::getpid();
  const pid_t child = or_throw(::fork(), "fork");
  if (child == 0) be_child(parent, to_parent.get(), work);
  to_parent.close();
  ChildOutcome outcome;
  const bool in_time = read_all(from_child.get(), deadline, outcome.output);
  if (!in_time) ::kill(child, SIGKILL);
  int status = 0;
  pid_t ended;
  while ((ended = ::waitpid(child, &status, 0)) < 0 && errno == EINTR) {
  }
  // Where SIGCHLD is ignored the kernel keeps no status: what the child wrote must do.
  if (ended < 0) status = 0;
  if (!in_time) {
    outcome.end = ChildOutcome::End::timed_out;
  } else if (WIFSIGNALED(status)) {
    outcome.end = ChildOutcome::End::signalled;
    outcome.code = WTERMSIG(status);
  } else {
    outcome.code = WEXITSTATUS(status);
  }
  return outcome;
}

}  // namespace uffd
