// The fetchers: threads that wait for the bytes of late sources, and install them.
//
// A read that never returns keeps its thread, and nothing else: its target ends without it, and so
// does the manager. Requests of faults go before those of fills.
#pragma once

#include <functional>
#include <memory>

#include "engine/serve/end_queue.hpp"

namespace uffd {

class FetchPool {
 public:
  // No thread starts before the first request.
  explicit FetchPool(EndQueue& ends);
  ~FetchPool();  // its targets were removed

  enum class Urgency { fault, fill };

  // What to call, from a fetcher, whenever a request is done; before the first of them.
  void on_done(std::function<void()> done);

  // Asks for those missing pages around page, within [first, end) of one region, that were not
  // asked for already. Returns the end of what has been asked for, now or before, from page on. The
  // caller shares the target's gate, or is its handler.
  uint64_t request(ServedTarget& served, uint64_t first, uint64_t end, uint64_t page,
                   Urgency urgency);

  // Poisons what was asked for longer ago than its source's deadline. Called now and then as long
  // as a fill waits; of faults their handler knows the time.
  void expire();

  // How many requests of fills are useful at once.
  static constexpr uint64_t kEnough = 8;

  // When this returns no fetcher touches the target any more, and none will.
  void remove(ServedTarget& served);

 private:
  struct State;
  static void run(const std::shared_ptr<State>& state);

  std::shared_ptr<State> state_;  // outlives the pool where a read does
};

}  // namespace uffd
