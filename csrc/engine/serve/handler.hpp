// The hot loop: waits for faults of its targets, reads them in batches, sorts and resolves them.
//
// One thread. A userfaultfd has one handler only: several wake each other for nothing. On the path
// of a fault it takes no lock and allocates nothing.
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
#include "engine/serve/installer.hpp"
#include "engine/serve/retry_queue.hpp"
#include "engine/serve/watchdog.hpp"

namespace uffd {

class Handler {
 public:
  Handler(const std::string& name, std::optional<Cpu> cpu, EndQueue& ends);
  ~Handler();  // its targets were removed

  // From any thread. The target is served from the return of add(), and no more from that of
  // remove().
  void add(ServedTarget& served);
  void remove(ServedTarget& served);
  // Returns when every page that was installed before the call is marked.
  void settle();

  size_t targets() const noexcept { return targets_.load(std::memory_order_relaxed); }

 private:
  static constexpr size_t kBatch = 64;

  void run();
  void serve(ServedTarget& served);
  void resolve(ServedTarget& served, std::span<const uffd_msg> messages);
  // The first of these sorted addresses and those that the same install covers; returns how many.
  size_t resolve_run(ServedTarget& served, std::span<const uint64_t> addresses, uint64_t read_at);
  void conclude(ServedTarget& served, Outcome outcome, std::span<const uint64_t> addresses,
                uint64_t read_at);
  void watch();
  void announce_if_settled(ServedTarget& served);
  void ask(std::unique_lock<std::mutex>& lock);
  // Forgets the targets that are to be removed; true when the thread is to stop.
  bool obey();

  EndQueue& ends_;
  Fd epoll_;
  WakeFd wake_;
  std::array<uffd_msg, kBatch> messages_;
  std::array<uint64_t, kBatch> addresses_;
  RetryQueue retry_;
  Watchdog watchdog_;
  std::atomic<size_t> targets_{0};

  std::mutex mutex_;
  std::condition_variable obeyed_;
  std::vector<ServedTarget*> served_;  // all of them
  std::vector<ServedTarget*> to_remove_;
  uint64_t asked_ = 0;     // how often the thread was asked to obey
  uint64_t answered_ = 0;  // up to which of these it did
  bool stopping_ = false;

  std::thread thread_;  // last: it runs on all of the above
};

}  // namespace uffd
