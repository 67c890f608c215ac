#include "engine/serve/fill_pool.hpp"

#include <algorithm>
#include <chrono>

namespace uffd {
namespace {

// Large enough that the system call does not show (16 pages suffice), small enough that a fault
// hardly waits for it: some 70 us of COPY.
constexpr uint64_t kChunkBytes = 256 * 1024;

constexpr std::chrono::milliseconds kPauseBeforeRetry{1};

}  // namespace

FillPool::FillPool(std::span<const std::optional<Cpu>> cpus, EndQueue& ends) : ends_(ends) {
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
    }
  }
  work_.notify_all();
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
  std::unique_lock lock(mutex_);
  for (;;) {
    std::optional<std::pair<std::shared_ptr<Job>, Chunk>> taken;
    work_.wait(lock, [&] { return stopping_ || (taken = take()); });
    if (stopping_) return;
    const auto& [job, chunk] = *taken;
    lock.unlock();
    const Outcome outcome = fill(*job->served, chunk, job->served->filler_counters[filler]);
    lock.lock();
    put_back(*job, chunk, outcome);
    if (outcome == Outcome::again)
      work_.wait_for(lock, kPauseBeforeRetry, [this] { return stopping_; });
  }
}

std::optional<std::pair<std::shared_ptr<FillPool::Job>, FillPool::Chunk>> FillPool::take() {
  for (size_t left = jobs_.size(); left > 0; --left) {
    const std::shared_ptr<Job> job = jobs_.front();
    jobs_.pop_front();
    if (job->held > 0) {
      jobs_.push_back(job);
      continue;
    }
    const Chunk chunk = next_chunk(*job);
    if (!chunk.region && job->in_flight == 0) {
      pass(*job->served);
      continue;
    }
    jobs_.push_back(job);
    if (!chunk.region) continue;
    ++job->in_flight;
    return std::pair{job, chunk};
  }
  return std::nullopt;
}

FillPool::Chunk FillPool::next_chunk(Job& job) {
  const Target& target = job.served->target;
  const uint64_t pages = target.residency().pages();
  const uint64_t first = target.residency().next_missing(job.cursor, pages);
  if (first == pages) {
    job.cursor = pages;
    return {};
  }
  const Region* region = target.regions().find_page(first);
  const uint64_t most = std::max<uint64_t>(1, kChunkBytes / region->page_size);
  const uint64_t end =
      target.residency().next_resident(first + 1, std::min(first + most, region->end_page()));
  job.cursor = end;
  return {region, first, end};
}

Outcome FillPool::fill(ServedTarget& served, const Chunk& chunk, Counters& counters) {
  if (served.in_service.load(std::memory_order_relaxed)) ::sched_yield();
  const Region& region = *chunk.region;
  const uint64_t start = region.address_of(chunk.first);
  region.source->prepare(region.source_offset + start - region.range.start,
                         (chunk.end - chunk.first) * region.page_size);
  const Outcome outcome =
      Installer(served.target, counters).install(region, chunk.first, chunk.end);
  if (outcome == Outcome::gone) served.gone.store(true, std::memory_order_relaxed);
  if (outcome == Outcome::gone || served.target.residency().missing() == 0) ends_.announce(served);
  return outcome;
}

void FillPool::put_back(Job& job, const Chunk& chunk, Outcome outcome) {
  --job.in_flight;
  if (outcome == Outcome::again) job.cursor = std::min(job.cursor, chunk.first);
  if (outcome == Outcome::gone) job.cursor = job.served->target.residency().pages();
  if (job.in_flight == 0) idle_.notify_all();
}

void FillPool::pass(ServedTarget& served) {
  {
    const std::lock_guard lock(served.mutex);
    served.tried_all = true;
  }
  served.changed.notify_all();
}

}  // namespace uffd
