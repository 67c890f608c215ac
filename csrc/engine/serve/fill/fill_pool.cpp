#include "engine/serve/fill/fill_pool.hpp"

#include <algorithm>
#include <chrono>
#include <new>

#include "engine/linux/time_slice.hpp"

namespace uffd {
namespace {

// About two chunks, and longer than a handler's time slice, so that a handler takes the CPU from a
// filler when a fault wakes it.
constexpr std::chrono::microseconds kFillTimeSlice{200};

}  // namespace

FillPool::FillPool(std::span<const std::optional<Cpu>> cpus, FetchPool& fetchers)
    : fetchers_(fetchers) {
  fetchers_.on_done([this] {
    {
      const std::lock_guard lock(mutex_);
      ++news_;
      for (const JobPtr& job : jobs_) job->exhausted = false;
    }
    work_.notify_all();
  });
  threads_.reserve(cpus.size());
  try {
    for (size_t i = 0; i < cpus.size(); ++i) {
      threads_.push_back(
          start_thread("uffd-fill-" + std::to_string(i), cpus[i], [this] { run(); }));
    }
  } catch (...) {
    fetchers_.on_done({});
    stop();
    throw;
  }
}

FillPool::~FillPool() {
  fetchers_.on_done({});
  stop();
}

void FillPool::stop() noexcept {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

bool FillPool::start(ServedTarget& served, FillJob::Kind kind) noexcept {
  try {
    const std::lock_guard lock(mutex_);
    ++news_;
    served.life.set_tried_all(false);
    const auto job = std::find_if(jobs_.begin(), jobs_.end(),
                                  [&](const JobPtr& other) { return &other->served() == &served; });
    if (job == jobs_.end()) {
      jobs_.push_back(std::make_shared<FillJob>(served.shared_from_this(), kind, fetchers_));
      served.filling.store(true, std::memory_order_relaxed);
    } else {
      (*job)->restart(kind);
      (*job)->exhausted = false;
    }
  } catch (const std::bad_alloc&) {
    return false;
  }
  work_.notify_all();
  return true;
}

void FillPool::run() {
  ::sched_yield();  // lets handlers that start at the same time run first
  ask_for_time_slices(kFillTimeSlice);
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const JobPtr job = next();
    if (!job) {
      wait(lock);
      continue;
    }
    ++job->in_flight;
    const uint64_t news = news_;
    lock.unlock();
    yield_if_faults_came();
    const FillJob::Step step = job->step();
    lock.lock();
    // Where a fetch has ended since, or the fill began anew, there may be more.
    job->exhausted = step == FillJob::Step::none && news == news_;
    put_back(job, step, lock);
  }
}

FillPool::JobPtr FillPool::next() {
  const uint64_t now = sys::monotonic_ns();
  for (size_t left = jobs_.size(); left > 0; --left) {
    std::rotate(jobs_.begin(), jobs_.begin() + 1, jobs_.end());
    const JobPtr& job = jobs_.back();
    if (!job->exhausted && job->not_before <= now && !job->gives_way()) return job;
  }
  return nullptr;
}

// Waits until there is work, or a job that met EAGAIN is to be tried again.
void FillPool::wait(std::unique_lock<std::mutex>& lock) {
  uint64_t due = UINT64_MAX;
  for (const JobPtr& job : jobs_) {
    if (!job->exhausted) due = std::min(due, job->not_before);
  }
  if (due == UINT64_MAX) return work_.wait(lock);
  const uint64_t now = sys::monotonic_ns();
  if (due > now) work_.wait_for(lock, std::chrono::nanoseconds(due - now));
}

void FillPool::put_back(const JobPtr& job, FillJob::Step step, std::unique_lock<std::mutex>& lock) {
  --job->in_flight;
  ServedTarget& served = job->served();
  const bool passed = job->exhausted && job->in_flight == 0 && served.outstanding_fetches == 0;
  if (passed || step == FillJob::Step::dropped) {
    std::erase(jobs_, job);
    served.filling.store(false, std::memory_order_relaxed);
    if (passed) served.life.set_tried_all(true);
  } else if (step == FillJob::Step::done) {
    job->patience.renew();
  } else if (step == FillJob::Step::again) {
    ++news_;  // another filler may have found nothing just before the chunk came back
    try_again(*job, lock);
  }
}

void FillPool::try_again(FillJob& job, std::unique_lock<std::mutex>& lock) {
  if (!job.patience.at_once()) {
    const std::chrono::nanoseconds pause = job.patience.pause();
    job.not_before = sys::monotonic_ns() + static_cast<uint64_t>(pause.count());
    return;
  }
  lock.unlock();
  ::sched_yield();
  lock.lock();
}

void FillPool::yield_if_faults_came() noexcept {
  if (yields_.load(std::memory_order_relaxed) <= 0) return;
  yields_.fetch_sub(1, std::memory_order_relaxed);
  ::sched_yield();
}

}  // namespace uffd
