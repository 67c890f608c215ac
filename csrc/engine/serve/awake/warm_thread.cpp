#include "engine/serve/awake/warm_thread.hpp"

#include <sched.h>
#include <sys/syscall.h>
#include <time.h>

#include <algorithm>

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

int make_idle_class(pid_t thread) noexcept {
  const sched_param none{};
  return sys::or_errno(::sched_setscheduler(thread, SCHED_IDLE, &none));
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

// What the thread runs.
class WarmThread::Loop {
 public:
  explicit Loop(std::shared_ptr<std::atomic<uint64_t>> spent_ns)
      : spent_ns_(std::move(spent_ns)), cpus_(affinity_of(0).value_or(only_cpu(0))) {}

  void follow(const FaultingThread& thread) noexcept {
    process_.store(thread.process, std::memory_order_relaxed);
    own_id_.store(thread.own_id, std::memory_order_relaxed);
    handler_cpu_.store(thread.handler_cpu, std::memory_order_relaxed);
  }
  void warm_up() noexcept { change(warming); }
  void rest() noexcept {
    uint32_t expected = warming;
    state_.compare_exchange_strong(expected, resting);
  }
  void stop() noexcept { change(stopped); }

  void begin_and_run() {
    thread_.store(static_cast<uint32_t>(::syscall(SYS_gettid)));
    futex::wake(thread_);
    run();
  }
  // Its id, once it runs.
  pid_t await_thread() noexcept {
    while (thread_.load() == 0) futex::wait(thread_, 0);
    return static_cast<pid_t>(thread_.load());
  }

 private:
  enum State : uint32_t { resting, warming, stopped };

  void run();
  void change(State state) noexcept {
    state_.store(state);
    futex::wake(state_);
  }
  void warm();
  // The CPU that is to be kept awake, or -1: that of the thread that faulted last, unless the
  // handler is there.
  int find_cpu();

  const std::shared_ptr<std::atomic<uint64_t>> spent_ns_;
  const cpu_set_t cpus_;  // that this process may use
  std::atomic<uint32_t> state_{resting}, thread_{0};
  // Of the thread that faulted last; they may be of two threads, and then the next look is right.
  std::atomic<pid_t> process_{0};
  std::atomic<uint32_t> own_id_{0};
  std::atomic<int> handler_cpu_{-1};
  pid_t known_process_ = 0, known_thread_ = 0;  // whose id was found
  uint32_t known_own_id_ = 0;
};

WarmThread::WarmThread(std::shared_ptr<std::atomic<uint64_t>> spent_ns)
    : loop_(std::make_shared<Loop>(std::move(spent_ns))) {
  std::thread thread =
      start_thread("uffd-warm", std::nullopt, [loop = loop_] { loop->begin_and_run(); });
  // From here on the thread may not run for long: nobody waits for it.
  const int error = make_idle_class(loop_->await_thread());
  if (error == 0) {
    thread.detach();
    return;
  }
  loop_->stop();
  thread.join();
  throw SystemError(-error, "a thread may not be at SCHED_IDLE");
}

WarmThread::~WarmThread() {
  loop_->stop();
}

void WarmThread::begin(const FaultingThread& thread) noexcept {
  loop_->follow(thread);
  loop_->warm_up();
}

void WarmThread::follow(const FaultingThread& thread) noexcept {
  loop_->follow(thread);
}

void WarmThread::end() noexcept {
  loop_->rest();
}

void WarmThread::Loop::run() {
  for (;;) {
    switch (state_.load()) {
      case stopped:
        return;
      case warming:
        warm();
        break;
      default:
        futex::wait(state_, resting);
    }
  }
}

void WarmThread::Loop::warm() {
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
    spent_ns_->store(thread_cpu_ns(), std::memory_order_relaxed);
  }
}

int WarmThread::Loop::find_cpu() {
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
