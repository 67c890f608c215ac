#include "engine/linux/thread_interrupt.hpp"

#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

namespace uffd {
namespace {

void do_nothing(int) {}

// The last real-time signal that nobody uses, or the one that another thread has taken just now; 0
// where there is none.
int take_signal() noexcept {
  for (int number = SIGRTMAX; number >= SIGRTMIN; --number) {
    struct sigaction action{};
    if (::sigaction(number, nullptr, &action) != 0) continue;
    if (action.sa_handler == do_nothing) return number;
    if (action.sa_handler != SIG_DFL) continue;
    action.sa_handler = do_nothing;  // without SA_RESTART
    if (::sigaction(number, &action, nullptr) == 0) return number;
  }
  return 0;
}

int interrupt_signal() noexcept {
  constexpr int unknown = -1;
  static std::atomic<int> taken{unknown};
  int number = taken.load(std::memory_order_relaxed);
  if (number == unknown) taken.store(number = take_signal(), std::memory_order_relaxed);
  return number;
}

}  // namespace

ThreadInterrupt::ThreadInterrupt()
    : signal_(interrupt_signal()), thread_(static_cast<pid_t>(::syscall(SYS_gettid))) {
  if (signal_ == 0) return;
  sigevent event{};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = signal_;
  event.sigev_notify_thread_id = thread_;
  timer_t timer;
  if (::timer_create(CLOCK_MONOTONIC, &event, &timer) != 0) return;
  timer_ = timer;
  sigset_t mine;
  sigemptyset(&mine);
  sigaddset(&mine, signal_);
  pthread_sigmask(SIG_UNBLOCK, &mine, nullptr);
  available_ = true;
}

ThreadInterrupt::~ThreadInterrupt() {
  if (available_) ::timer_delete(timer_);
}

void ThreadInterrupt::interrupt() const noexcept {
  if (available_) ::syscall(SYS_tgkill, ::getpid(), thread_, signal_);
}

void ThreadInterrupt::every(std::chrono::milliseconds period) noexcept {
  if (!available_) return;
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(period);
  const std::chrono::nanoseconds rest = period - seconds;
  const timespec interval{static_cast<time_t>(seconds.count()), static_cast<long>(rest.count())};
  const itimerspec setting{interval, interval};
  ::timer_settime(timer_, 0, &setting, nullptr);
}

}  // namespace uffd
