// A named thread of ours: takes no signals but for its own mistakes (the others are for the
// process's own threads) and may be held to one CPU.
#pragma once

#include <pthread.h>
#include <signal.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include "engine/linux/error.hpp"
#include "engine/linux/syscall.hpp"

namespace uffd {

// A CPU that threads may be held to: checked when it is named, so that no thread fails to start for
// it.
class Cpu {
 public:
  explicit Cpu(int number) : number_(number) {
    cpu_set_t allowed;
    or_throw(::sched_getaffinity(0, sizeof allowed, &allowed), "sched_getaffinity");
    if (number < 0 || number >= CPU_SETSIZE || !CPU_ISSET(static_cast<size_t>(number), &allowed)) {
      throw std::invalid_argument(
          "CPU " + std::to_string(number) +
          " is not in the affinity mask of this thread: choose one of os.sched_getaffinity(0)");
    }
  }
  int number() const noexcept { return number_; }

  void hold_this_thread() const noexcept {
    cpu_set_t mask;
    CPU_ZERO(&mask);
    CPU_SET(static_cast<size_t>(number_), &mask);
    ::sched_setaffinity(0, sizeof mask, &mask);
  }

 private:
  int number_;
};

// name: at most 15 characters, as ps and perf show it. The caller joins. Throws SystemError where
// the thread cannot be started.
template <typename Function>
std::thread start_thread(const std::string& name, std::optional<Cpu> cpu, Function&& function) {
  sigset_t all, before;
  sigfillset(&all);
  // The signals of a thread's own mistakes: where they are blocked, the kernel ends the process and
  // calls no signal handler.
  for (const int own : {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP}) sigdelset(&all, own);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const struct Restore {
    const sigset_t& mask;
    ~Restore() { pthread_sigmask(SIG_SETMASK, &mask, nullptr); }
  } restore{before};
  try {
    return std::thread([name, cpu, run = std::forward<Function>(function)]() mutable {
      pthread_setname_np(pthread_self(), name.c_str());
      if (cpu) cpu->hold_this_thread();
      run();
    });
  } catch (const std::system_error& error) {
    throw SystemError(error.code().value(),
                      "thread " + name +
                          " cannot be started: raise RLIMIT_NPROC (ulimit -u), or "
                          "the pids.max of its cgroup");
  }
}

}  // namespace uffd
