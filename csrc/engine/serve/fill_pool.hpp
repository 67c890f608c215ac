// The fillers: threads that install, in the background, the pages that nobody has touched yet.
//
// Work is handed out in chunks so small that a fault hardly waits for one (ChunkSize), in turn over
// the targets that fill; a filler yields to those whom a fault has just woken.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "engine/linux/thread.hpp"
#include "engine/serve/chunk_size.hpp"
#include "engine/serve/end_queue.hpp"
#include "engine/serve/fetch_pool.hpp"
#include "engine/serve/installer.hpp"

namespace uffd {

class FillPool {
 public:
  // A thread for each of cpus, held to that CPU or free.
  FillPool(std::span<const std::optional<Cpu>> cpus, EndQueue& ends, FetchPool& fetchers);
  ~FillPool();  // its targets were removed

  size_t threads() const noexcept { return threads_.size(); }

  // From any thread. Fills the target, from its first page again if a fill of it is under way or
  // has passed.
  void start(ServedTarget& served);
  // Whether a fill of it is under way.
  bool is_filling(const ServedTarget& served);
  // By a handler with each batch of faults: for the next chunks, fillers let whoever it wakes run
  // first. Takes no lock.
  void give_way() noexcept {
    if (yields_.load(std::memory_order_relaxed) != kYields)
      yields_.store(kYields, std::memory_order_relaxed);
  }
  // When this returns no filler touches the target any more, and a later start() does nothing.
  void remove(ServedTarget& served);
  // Returns when every page of the target that was installed before the call is marked.
  void settle(ServedTarget& served);

 private:
  // Shared by all fillers. A thread that was just woken may be owed no time yet: once is not
  // enough.
  static constexpr int kYields = 16;

  struct Job {
    ServedTarget* served;
    uint64_t cursor = 0;     // page: those before it are handed out
    unsigned in_flight = 0;  // chunks
    unsigned held = 0;       // by settle(): no chunk is handed out
    ChunkSize size = {};
  };
  struct Chunk {
    uint64_t first = 0, end = 0;  // pages
    SourcePtr source;
    uint64_t offset = 0, length = 0;  // in the source, in bytes
  };

  void run(size_t filler);
  std::shared_ptr<Job> find(const ServedTarget& served) const;
  // The next chunk of the first job that has one; moves that job behind the others, and drops those
  // that have passed. Those of late sources go to the fetchers.
  std::optional<std::pair<std::shared_ptr<Job>, Chunk>> take();
  std::optional<Chunk> next_chunk(Job& job);
  // Of a chunk that begins with this page.
  static uint64_t most_pages(const Job& job, const Region& region, uint64_t first);
  Outcome fill(ServedTarget& served, const Chunk& chunk, Counters& counters);
  void yield_if_faults_came() noexcept;
  void await_late_sources(std::unique_lock<std::mutex>& lock);
  static Outcome install(ServedTarget& served, const Chunk& chunk, Counters& counters);
  void put_back(Job& job, const Chunk& chunk, Outcome outcome, uint64_t nanoseconds);
  static void pass(ServedTarget& served);

  EndQueue& ends_;
  FetchPool& fetchers_;
  alignas(64) std::atomic<int> yields_{0};
  alignas(64) std::mutex mutex_;
  std::condition_variable work_;
  std::condition_variable idle_;
  std::deque<std::shared_ptr<Job>> jobs_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace uffd
