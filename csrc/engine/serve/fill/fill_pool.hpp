// The fillers: threads that install, in the background, the pages that nobody has touched yet.
//
// Work is handed out in chunks so small that a fault hardly waits for one (ChunkSize), in turn over
// the targets that are filled, each chunk under a lease; a filler yields to threads that a fault
// has just woken. A target whose leases are revoked is dropped.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "engine/linux/thread.hpp"
#include "engine/serve/fill/fetch_pool.hpp"
#include "engine/serve/fill/fill_job.hpp"

namespace uffd {

class FillPool {
 public:
  // A thread for each of cpus, held to that CPU or free. Throws SystemError where one cannot be
  // started.
  FillPool(std::span<const std::optional<Cpu>> cpus, FetchPool& fetchers);
  ~FillPool();

  // Any thread. Fills the target, or poisons what is missing, and begins at the first page again if
  // a fill is under way; Lifecycle::tried_all() says when every page was tried. False where there
  // is no memory for it.
  bool start(ServedTarget& served, FillJob::Kind kind) noexcept;
  // By a handler with each batch of faults: before the next chunks, fillers let the threads that
  // the handler wakes run first. Takes no lock.
  void give_way() noexcept {
    if (yields_.load(std::memory_order_relaxed) != kYields)
      yields_.store(kYields, std::memory_order_relaxed);
  }

 private:
  // How many yields all fillers share. The scheduler may owe no time yet to a thread that was just
  // woken: one yield is not enough.
  static constexpr int kYields = 16;

  using JobPtr = std::shared_ptr<FillJob>;

  void run();
  void stop() noexcept;
  // The next job that has work; moves it to the end of the queue. nullptr where no job has work.
  JobPtr next();
  void wait(std::unique_lock<std::mutex>& lock);
  void put_back(const JobPtr& job, FillJob::Step step, std::unique_lock<std::mutex>& lock);
  static void try_again(FillJob& job, std::unique_lock<std::mutex>& lock);
  void yield_if_faults_came() noexcept;

  FetchPool& fetchers_;
  // Handlers write this with each batch of faults: it has a cache line without the fillers' lock.
  alignas(64) std::atomic<int> yields_{0};
  alignas(64) std::mutex mutex_;
  std::condition_variable work_;
  std::vector<JobPtr> jobs_;
  uint64_t news_ = 0;  // fetches that have ended, fills that began, chunks that came back
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace uffd
