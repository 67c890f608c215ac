// The fetchers: threads that wait for the bytes of late sources, and install them; and a clock
// thread that poisons what a source has not supplied within its deadline, which begins with the
// first read.
//
// A read that failed is tried again as the source's Retry says. In between the request rests, and
// takes no thread and no other request's place. When no try is left the pages are read one by one,
// and those that fail alone are poisoned.
//
// Targets and sources take turns, and a source has at most kReadsOfSource reads under way. A read
// whose deadline has passed does not count any more; but kReadsOfSource such reads mean that the
// source does not answer, and then the deadline of its queued requests begins, too. A read that
// never returns keeps its thread, and nothing else: its target ends without it, and so does the
// manager. Beyond kMostThreads a thread is started only for a source that has no read under way, so
// that no number of sources that hang takes all threads. Requests of faults go before those of
// fills.
#pragma once

#include <functional>
#include <memory>

#include "engine/serve/served/served_target.hpp"

namespace uffd {

class FetchPool {
 public:
  static constexpr unsigned kReadsOfSource = 4;
  // A fill makes no more requests while so many of its target are outstanding.
  static constexpr uint64_t kEnough = 8;

  FetchPool();  // no thread starts before it is needed
  ~FetchPool();

  enum class Urgency { fault, fill };

  // What to call, from a fetcher, whenever a request is done; empty: nothing. When this returns
  // nobody calls what was given before.
  void on_done(std::function<void()> done);

  // Starts the threads without which a late source cannot be served. Throws SystemError where they
  // cannot be started.
  void make_ready_for(const Source& source);

  // Asks for the pages around page, within [first, end) of one region, that no request has yet.
  // Returns the end of the request, new or earlier, that has page; 0 where there is no memory for a
  // request now. The caller shares the target's gate, or is its handler.
  uint64_t request(ServedTarget& served, uint64_t first, uint64_t end, uint64_t page,
                   Urgency urgency) noexcept;

  // Drops what is queued for a target that has no leases any more.
  void forget(const ServedTarget& served);

 private:
  class State;

  std::shared_ptr<State> state_;  // outlives the pool where a read does not return
};

}  // namespace uffd
