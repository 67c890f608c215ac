#include "workload/crew.hpp"

#include <sys/resource.h>

#include <ctime>
#include <optional>
#include <stdexcept>
#include <utility>

#include "engine/linux/syscall.hpp"

namespace uffd::workload {
namespace {

size_t at_least_one(size_t threads) {
  if (threads == 0) throw std::invalid_argument("threads must be at least 1");
  return threads;
}

uint64_t thread_cpu_ns() noexcept {
  timespec now;
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(now.tv_nsec);
}

rusage thread_usage() noexcept {
  rusage usage{};
  ::getrusage(RUSAGE_THREAD, &usage);
  return usage;
}

}  // namespace

Crew::Crew(std::string name, size_t threads, std::vector<Cpu> cpus)
    : name_(std::move(name)),
      cpus_(std::move(cpus)),
      shifts_(at_least_one(threads)),
      errors_(threads),
      at_gate_(static_cast<std::ptrdiff_t>(threads)) {}

Crew::~Crew() {
  wait_for_threads();
}

void Crew::start(std::function<void(size_t)> work) {
  if (work_) throw std::logic_error("start() can be called only once: make a new object");
  work_ = std::move(work);
  launch();
  at_gate_.wait();
  unfinished_.store(size(), std::memory_order_relaxed);
  origin_ns_ = sys::monotonic_ns();
  gate_.count_down();
}

void Crew::launch() {
  threads_.reserve(size());
  try {
    for (size_t i = 0; i < size(); ++i) {
      const auto cpu = cpus_.empty() ? std::nullopt : std::optional(cpus_[i % cpus_.size()]);
      threads_.push_back(
          start_thread(name_ + "-" + std::to_string(i), cpu, [this, i] { attend(i); }));
    }
  } catch (...) {
    sent_home_ = true;
    gate_.count_down();
    wait_for_threads();
    throw;
  }
}

void Crew::attend(size_t index) noexcept {
  at_gate_.count_down();
  gate_.wait();
  if (sent_home_) return;
  do_shift(index);
  unfinished_.fetch_sub(1, std::memory_order_release);
}

void Crew::do_shift(size_t index) noexcept {
  Shift& shift = shifts_[index];
  const rusage before = thread_usage();
  const uint64_t cpu_before = thread_cpu_ns();
  shift.start_ns = sys::monotonic_ns();
  try {
    work_(index);
  } catch (...) {
    errors_[index] = std::current_exception();
  }
  shift.end_ns = sys::monotonic_ns();
  shift.cpu_ns = thread_cpu_ns() - cpu_before;
  const rusage after = thread_usage();
  shift.minor_faults = static_cast<uint64_t>(after.ru_minflt - before.ru_minflt);
  shift.major_faults = static_cast<uint64_t>(after.ru_majflt - before.ru_majflt);
}

const std::vector<Shift>& Crew::join() {
  if (threads_.empty()) throw std::logic_error("nothing to join: start first, and join once");
  wait_for_threads();
  for (const std::exception_ptr& error : errors_) {
    if (error) std::rethrow_exception(error);
  }
  return shifts_;
}

void Crew::wait_for_threads() {
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

}  // namespace uffd::workload
