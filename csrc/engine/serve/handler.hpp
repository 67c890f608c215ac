// The hot loop: waits for messages of its targets, reads them in batches, applies the events and
// resolves the faults.
//
// One thread. A userfaultfd has one handler only: several wake each other for nothing. On the path
// of a fault it takes no lock, but that of a living target's events, and allocates nothing.
#pragma once

#include <array>
#include <condition_variable>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "engine/linux/fd.hpp"
#include "engine/linux/thread.hpp"
#include "engine/serve/end_queue.hpp"
#include "engine/serve/fetch_pool.hpp"
#include "engine/serve/fill_pool.hpp"
#include "engine/serve/installer.hpp"
#include "engine/serve/retry_queue.hpp"
#include "engine/serve/roster.hpp"
#include "engine/serve/sole_reader.hpp"
#include "engine/serve/spinning.hpp"
#include "engine/serve/watchdog.hpp"

namespace uffd {

class Handler {
 public:
  Handler(const std::string& name, std::optional<Cpu> cpu, EndQueue& ends, FillPool& fillers,
          FetchPool& fetchers, Roster& roster);
  ~Handler();  // its targets were removed

  // From any thread. The target is served from the return of add(), and no more from that of
  // remove().
  void add(ServedTarget& served);
  void remove(ServedTarget& served);
  // Serves a fork child of a target of this handler as that is served; by its thread, or by the
  // ender.
  void adopt(ServedTarget& parent, const std::shared_ptr<ServedTarget>& child);
  // Returns when every page that was installed before the call is marked.
  void settle();

  const std::optional<Cpu>& cpu() const noexcept { return cpu_; }
  // Has the thread see whether one of its inline targets is settled. In signal handlers too.
  void look_at_inline_targets() noexcept { wake_.signal(); }

  size_t targets() const noexcept { return targets_.load(std::memory_order_relaxed); }

 private:
  static constexpr size_t kBatch = 64;

  void run();
  // Waits for events of any target and serves them; false when the thread is to stop.
  bool serve_all();
  int await_events(std::span<epoll_event> events, int timeout_ms);
  // Whether this target, whose faults come one after another, can be served alone.
  bool is_sole(const ServedTarget& served) const noexcept;
  // Serves it until its faults cease for a while, or something else is wanted of this thread.
  void serve_alone(ServedTarget& served);
  void watch_again(ServedTarget& served);
  int epoll_add_userfaultfd(ServedTarget& served) noexcept;
  ssize_t await_messages();
  void serve(ServedTarget& served);
  // Reads a batch and resolves its faults; how many messages there were.
  size_t serve_batch(ServedTarget& served);
  void serve_messages(ServedTarget& served, size_t count);
  ssize_t read(ServedTarget& served);
  // After a FORK event for which there was no descriptor; whether there is one now.
  bool make_room();
  void resolve(ServedTarget& served, std::span<const uffd_msg> messages);
  // The first of these sorted fault keys and those that the same install covers; returns how many.
  size_t resolve_run(ServedTarget& served, std::span<const uint64_t> keys, uint64_t read_at);
  Outcome resolve_stray(ServedTarget& served, uint64_t address);
  Outcome resolve_write(ServedTarget& served, uint64_t address);
  void fetch(ServedTarget& served, const Region& region, uint64_t page, PageRun run,
             uint64_t read_at);
  void conclude(ServedTarget& served, Outcome outcome, std::span<const uint64_t> keys,
                uint64_t read_at);
  void come_back(const RetryQueue::Entry& entry);
  bool serves(const ServedTarget& served);
  void watch();
  // Has adopted threads let go of where they do not fault any more.
  void review_adoptions();
  // Looks at fork children: of their death nothing tells but this.
  void watch_children();
  // Has the thread look at what was changed under the mutex.
  void notify();
  void ask(std::unique_lock<std::mutex>& lock);
  // Forgets the targets that are to be removed; true when the thread is to stop.
  bool obey();

  const std::optional<Cpu> cpu_;
  EndQueue& ends_;
  FillPool& fillers_;
  FetchPool& fetchers_;
  Roster& roster_;
  Fd epoll_;
  WakeFd wake_;
  Fd spare_;  // closed to make room for a fork child's
  std::array<uffd_msg, kBatch> messages_;
  std::array<uint64_t, kBatch> keys_;
  RetryQueue retry_;
  Watchdog watchdog_;
  Spinning spinning_;
  bool holds_threads_ = false;             // of some target; the thread's
  ServedTarget* last_faulting_ = nullptr;  // whose faults were served last; the thread's
  std::atomic<size_t> adopting_{0};        // of its targets, those that adopt threads
  std::atomic<size_t> children_{0};        // fork children among its targets
  uint64_t watch_children_at_ = 0;         // by CLOCK_MONOTONIC; the thread's
  std::atomic<size_t> targets_{0};

  std::mutex mutex_;
  std::condition_variable obeyed_;
  std::vector<ServedTarget*> served_;  // all of them
  std::vector<ServedTarget*> to_remove_;
  uint64_t asked_ = 0;     // how often the thread was asked to obey
  uint64_t answered_ = 0;  // up to which of these it did
  bool stopping_ = false;
  SoleReader* reader_ = nullptr;  // the thread's, while it runs

  std::thread thread_;  // last: it runs on all of the above
};

}  // namespace uffd
