#include "engine/serve/awake/warm_thread.hpp"

#include <sched.h>
#include <time.h>

#include <algorithm>
#include <future>

#include "engine/linux/affinity.hpp"
#include "engine/linux/futex.hpp"
#include "engine/linux/thread.hpp"

namespace uffd {
namespace {

// How often it looks whether the threads have moved to other CPUs.
constexpr uint64_t kLookNs = 2'000'000;
constexpr int kPausesAtOnce = 64;

uint64_t thread_cpu_ns() noexcept {
  timespec spent;
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &spent);
  return static_cast<uint64_t>(spent.tv_sec) * 1'000'000'000u +
         static_cast<uint64_t>(spent.tv_nsec);
}

void pause_cpu() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

int become_idle_class() noexcept {
  const sched_param none{};
  return sys::or_errno(::sched_setscheduler(0, SCHED_IDLE, &none));
}

// Of two CPUs the other one; -1 where there is one, or more than two.
int only_other(const cpu_set_t& cpus, int cpu) noexcept {
  if (CPU_COUNT(&cpus) > 2) return -1;
  for (int other = 0; other < CPU_SETSIZE; ++other) {
    if (other != cpu && CPU_ISSET(static_cast<size_t>(other), &cpus)) return other;
  }
  return -1;
}

}  // namespace

WarmThread::WarmThread(std::atomic<uint64_t>& spent_ns)
    : spent_ns_(spent_ns), cpus_(affinity_of(0).value_or(only_cpu(0))) {
  std::promise<int> begun;
  thread_ = start_thread("uffd-warm", std::nullopt, [this, &begun] {
    const int error = become_idle_class();
    begun.set_value(error);
    if (error == 0) run();
  });
  const int error = begun.get_future().get();
  if (error == 0) return;
  thread_.join();
  throw SystemError(-error, "a thread may not be at SCHED_IDLE");
}

WarmThread::~WarmThread() {
  state_.store(stopped);
  futex::wake(state_);
  thread_.join();
}

void WarmThread::begin(const FaultingThread& thread) noexcept {
  follow(thread);
  state_.store(warming);
  futex::wake(state_);
}

void WarmThread::follow(const FaultingThread& thread) noexcept {
  process_.store(thread.process, std::memory_order_relaxed);
  own_id_.store(thread.own_id, std::memory_order_relaxed);
  handler_cpu_.store(thread.handler_cpu, std::memory_order_relaxed);
}

void WarmThread::end() noexcept {
  uint32_t expected = warming;
  state_.compare_exchange_strong(expected, resting);
}

void WarmThread::run() {
  for (;;) {
    switch (state_.load()) {
      case stopped:
        return;
      case warming:
        warm();
        break;
      default:
        futex::wait_until(state_, resting, sys::monotonic_ns() + 3'600'000'000'000u);
    }
  }
}

void WarmThread::warm() {
  while (state_.load() == warming) {
    const uint64_t look_at = sys::monotonic_ns() + kLookNs;
    const int cpu = find_cpu();
    if (cpu < 0 || set_affinity(0, only_cpu(cpu)) != 0) {
      futex::wait_until(state_, warming, look_at);
      continue;
    }
    while (state_.load(std::memory_order_relaxed) == warming && sys::monotonic_ns() < look_at) {
      for (int i = 0; i < kPausesAtOnce; ++i) pause_cpu();
    }
    spent_ns_.store(thread_cpu_ns(), std::memory_order_relaxed);
  }
}

int WarmThread::find_cpu() {
  const pid_t process = process_.load(std::memory_order_relaxed);
  const uint32_t own_id = own_id_.load(std::memory_order_relaxed);
  const int handler_cpu = handler_cpu_.load(std::memory_order_relaxed);
  if (own_id != 0 && (own_id != known_own_id_ || process != known_process_)) {
    try {
      known_thread_ =
          thread_by_own_id(process == 0 ? ::getpid() : process, static_cast<pid_t>(own_id));
    } catch (const std::bad_alloc&) {
      known_thread_ = 0;
    }
    known_own_id_ = own_id;
    known_process_ = process;
  }
  const int cpu = own_id != 0 && known_thread_ != 0 ? last_cpu_of(known_thread_) : -1;
  if (cpu >= 0) return cpu == handler_cpu ? -1 : cpu;
  return only_other(cpus_, handler_cpu);
}

}  // namespace uffd
