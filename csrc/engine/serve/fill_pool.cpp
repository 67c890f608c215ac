#include "engine/serve/fill_pool.hpp"

#include <algorithm>
#include <chrono>

#include "engine/linux/time_slice.hpp"

namespace uffd {
namespace {

// How often a filler tries again at once, and how long it pauses then.
constexpr unsigned kPatience = 64;
constexpr std::chrono::milliseconds kPauseBeforeRetry{1};
constexpr std::chrono::milliseconds kPauseBeforeExpiry{50};
// About two chunks, and longer than a handler's, which so takes the CPU from a filler when a fault
// wakes it.
constexpr std::chrono::microseconds kTimeSlice{200};

}  // namespace

FillPool::FillPool(std::span<const std::optional<Cpu>> cpus, EndQueue& ends, FetchPool& fetchers)
    : ends_(ends), fetchers_(fetchers) {
  fetchers_.on_done([this] {
    {
      const std::lock_guard lock(mutex_);
    }  // so that no filler misses it
    work_.notify_all();
  });
  for (size_t i = 0; i < cpus.size(); ++i) {
    threads_.push_back(
        start_thread("uffd-fill-" + std::to_string(i), cpus[i], [this, i] { run(i); }));
  }
}

FillPool::~FillPool() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void FillPool::start(ServedTarget& served) {
  {
    const std::lock_guard lock(mutex_);
    if (served.detached) return;
    {
      const std::lock_guard target_lock(served.mutex);
      served.tried_all = false;
    }
    if (const auto job = find(served)) {
      job->cursor = 0;
    } else {
      jobs_.push_back(std::make_shared<Job>(Job{&served}));
      served.filling.store(true, std::memory_order_relaxed);
    }
  }
  work_.notify_all();
}

bool FillPool::is_filling(const ServedTarget& served) {
  const std::lock_guard lock(mutex_);
  return find(served) != nullptr;
}

void FillPool::remove(ServedTarget& served) {
  std::unique_lock lock(mutex_);
  served.detached = true;
  const auto job = find(served);
  if (!job) return;
  std::erase(jobs_, job);
  idle_.wait(lock, [&] { return job->in_flight == 0; });
}

void FillPool::settle(ServedTarget& served) {
  {
    std::unique_lock lock(mutex_);
    const auto job = find(served);
    if (!job) return;
    ++job->held;
    idle_.wait(lock, [&] { return job->in_flight == 0; });
    --job->held;
  }
  work_.notify_all();
}

std::shared_ptr<FillPool::Job> FillPool::find(const ServedTarget& served) const {
  const auto job = std::find_if(jobs_.begin(), jobs_.end(),
                                [&](const auto& other) { return other->served == &served; });
  return job == jobs_.end() ? nullptr : *job;
}

void FillPool::run(size_t filler) {
  ::sched_yield();  // to the handlers that begin beside it
  ask_for_time_slices(kTimeSlice);
  std::unique_lock lock(mutex_);
  for (unsigned patience = kPatience;;) {
    std::optional<std::pair<std::shared_ptr<Job>, Chunk>> taken;
    const auto has_work = [&] { return stopping_ || (taken = take()); };
    while (!has_work()) {
      if (jobs_.empty()) {
        work_.wait(lock);
      } else {
        await_late_sources(lock);
      }
    }
    if (stopping_) return;
    const auto& [job, chunk] = *taken;
    lock.unlock();
    const uint64_t began = sys::monotonic_ns();
    const Outcome outcome = fill(*job->served, chunk, job->served->filler_counters[filler]);
    const uint64_t nanoseconds = sys::monotonic_ns() - began;
    lock.lock();
    put_back(*job, chunk, outcome, nanoseconds);
    if (outcome != Outcome::again) {
      patience = kPatience;
    } else if (patience > 0) {
      // EAGAIN lasts until the thread behind an event has run again.
      --patience;
      lock.unlock();
      ::sched_yield();
      lock.lock();
    } else {
      work_.wait_for(lock, kPauseBeforeRetry, [this] { return stopping_; });
    }
  }
}

// Fills wait for late sources, which may never answer: now and then it is time to poison. A job is
// held meanwhile, so that its target, and with that the fetchers, stay.
void FillPool::await_late_sources(std::unique_lock<std::mutex>& lock) {
  work_.wait_for(lock, kPauseBeforeExpiry);
  if (stopping_ || jobs_.empty()) return;
  const std::shared_ptr<Job> job = jobs_.front();
  ++job->in_flight;
  lock.unlock();
  fetchers_.expire();
  lock.lock();
  --job->in_flight;
  idle_.notify_all();
}

std::optional<std::pair<std::shared_ptr<FillPool::Job>, FillPool::Chunk>> FillPool::take() {
  for (size_t left = jobs_.size(); left > 0; --left) {
    const std::shared_ptr<Job> job = jobs_.front();
    jobs_.pop_front();
    if (job->held > 0) {
      jobs_.push_back(job);
      continue;
    }
    const std::optional<Chunk> chunk = next_chunk(*job);
    if (!chunk && job->in_flight == 0 && job->served->outstanding_fetches == 0) {
      pass(*job->served);
      continue;
    }
    jobs_.push_back(job);
    if (!chunk) continue;
    ++job->in_flight;
    return std::pair{job, *chunk};
  }
  return std::nullopt;
}

uint64_t FillPool::most_pages(const Job& job, const Region& region, uint64_t first) {
  const uint64_t best = region.late() ? region.source->best_read() : 0;
  if (best < region.page_size) return job.size.pages(region.page_size);
  return (best - region.address_of(first) % best) / region.page_size;
}

std::optional<FillPool::Chunk> FillPool::next_chunk(Job& job) {
  ServedTarget& served = *job.served;
  const auto shared = served.installing();
  const Residency& residency = served.target.residency();
  for (;;) {
    const uint64_t first = residency.next_missing(job.cursor, residency.pages());
    job.cursor = first;
    if (first == residency.pages()) return std::nullopt;
    const Region& region = *served.target.regions().find_page(first);
    const uint64_t most = most_pages(job, region, first);
    const uint64_t end =
        residency.next_resident(first + 1, std::min(first + most, region.end_page()));
    const bool late = region.late(first, end);
    if (late && served.outstanding_fetches >= FetchPool::kEnough) return std::nullopt;
    if (!late) {
      job.cursor = end;
      return Chunk{first, end, region.source, region.offset_of(first),
                   (end - first) * region.page_size};
    }
    job.cursor = fetchers_.request(served, first, end, first, FetchPool::Urgency::fill);
  }
}

Outcome FillPool::fill(ServedTarget& served, const Chunk& chunk, Counters& counters) {
  yield_if_faults_came();
  if (chunk.source) chunk.source->prepare(chunk.offset, chunk.length);
  Outcome outcome = Outcome::done;
  {
    const auto shared = served.installing();
    outcome = install(served, chunk, counters);
  }
  if (outcome == Outcome::gone) served.gone.store(true, std::memory_order_relaxed);
  ends_.announce_if_settled(served);
  return outcome;
}

void FillPool::yield_if_faults_came() noexcept {
  if (yields_.load(std::memory_order_relaxed) <= 0) return;
  yields_.fetch_sub(1, std::memory_order_relaxed);
  ::sched_yield();
}

// Of a living target, regions may have been split, moved or unmapped since the chunk was taken.
Outcome FillPool::install(ServedTarget& served, const Chunk& chunk, Counters& counters) {
  Target& target = served.target;
  Installer installer(target, counters);
  Outcome worst = Outcome::done;
  for (uint64_t first = chunk.first;
       (first = target.residency().next_missing(first, chunk.end)) < chunk.end;) {
    const Region& region = *target.regions().find_page(first);
    const uint64_t end =
        target.residency().next_resident(first, std::min(chunk.end, region.end_page()));
    const Outcome outcome = installer.install(region, first, end);
    if (outcome >= Outcome::again) return outcome;
    worst = std::max(worst, outcome);
    first = end;
  }
  return worst;
}

void FillPool::put_back(Job& job, const Chunk& chunk, Outcome outcome, uint64_t nanoseconds) {
  --job.in_flight;
  if (outcome == Outcome::done) job.size.learn(chunk.length, nanoseconds);
  if (outcome == Outcome::again) job.cursor = std::min(job.cursor, chunk.first);
  if (outcome == Outcome::gone) job.cursor = job.served->target.residency().pages();
  if (job.in_flight == 0) idle_.notify_all();
}

void FillPool::pass(ServedTarget& served) {
  served.filling.store(false, std::memory_order_relaxed);
  {
    const std::lock_guard lock(served.mutex);
    served.tried_all = true;
  }
  served.changed.notify_all();
}

}  // namespace uffd
