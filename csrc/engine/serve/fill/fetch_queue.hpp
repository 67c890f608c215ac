// The requests to late sources: queued, by target and source in turn, or under way; and their
// deadlines. Under the lock of the fetch pool; knows no thread. Allocates in push() alone.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "engine/serve/fill/fetch_request.hpp"

namespace uffd {

class FetchQueue {
 public:
  using RequestPtr = std::shared_ptr<FetchRequest>;

  explicit FetchQueue(unsigned reads_of_source) : reads_of_source_(reads_of_source) {}

  // The request that has the page; where there is none, nullptr, and [first, end) is narrowed to
  // the pages around page that no request has.
  RequestPtr narrow(const ServedTarget& served, uint64_t page, uint64_t& first,
                    uint64_t& end) const;
  // Throws std::bad_alloc, and then has not taken it.
  void push(const RequestPtr& request, uint64_t now);

  // Whether some source has a read to begin.
  bool has_work() const;
  // Takes the next request to be read, in turn, and begins its deadline; nullptr where there is
  // none.
  RequestPtr begin(uint64_t now) noexcept;
  // The request's read has returned, and its pages are settled.
  void finish(const RequestPtr& request) noexcept;
  // The request's read has failed: it rests until then, and is queued again. Throws std::bad_alloc,
  // and then it is under way still.
  void rest(const RequestPtr& request, uint64_t until);
  // Queues what has rested long enough.
  void wake_rested(uint64_t now) noexcept;
  // Whether some source has a read to begin, and none under way.
  bool has_work_of_idle_source() const;

  // When the next deadline passes, or the next rest ends; kNever where there is none.
  uint64_t next_due() const noexcept;
  // A request whose deadline has passed, nullptr where there is none: the caller poisons its pages,
  // and calls expired(), or postpone() where that must be tried again.
  RequestPtr take_due(uint64_t now) noexcept;
  void expired(const RequestPtr& request, uint64_t now) noexcept;
  void postpone(const RequestPtr& request, uint64_t until) noexcept;

  // Drops what is queued for the target.
  void forget(const ServedTarget& served) noexcept;

 private:
  struct ByPlace {
    bool operator()(const RequestPtr& a, const RequestPtr& b) const {
      return std::pair(a->served.get(), a->first) < std::pair(b->served.get(), b->first);
    }
  };
  // What one target wants of one source.
  struct Lane {
    std::deque<RequestPtr> faults, fills;
    bool is_empty() const noexcept { return faults.empty() && fills.empty(); }
  };
  struct Reads {
    unsigned running = 0;  // whose deadline has not passed
    unsigned overdue = 0;
    size_t requests = 0;  // queued, under way or at rest
  };
  using LaneKey = std::pair<const Source*, const ServedTarget*>;
  using Lanes = std::map<LaneKey, Lane>;

  bool is_silent(const Source* source) const noexcept;
  bool may_begin(const Lanes::value_type& lane) const noexcept;
  void set_due(const RequestPtr& request, uint64_t due) noexcept;
  void take_off_books(const RequestPtr& request) noexcept;
  // It is neither queued, under way nor at rest any more.
  void remove(const RequestPtr& request) noexcept;
  bool drop_queued(const RequestPtr& request) noexcept;
  bool drop_resting(const RequestPtr& request) noexcept;
  // Begins the deadlines of what is queued for a source that does not answer.
  void start_deadlines(const Source& source, uint64_t now) noexcept;

  const unsigned reads_of_source_;
  Lanes lanes_;     // none is empty
  LaneKey last_{};  // whose turn was the last
  std::map<const Source*, Reads> reads_;
  std::set<RequestPtr, ByPlace> asked_;  // queued, under way or at rest, and not settled
  FetchRequest::Deadlines due_;          // of all that are queued, under way or at rest
  FetchRequest::Deadlines resting_;      // by the ends of their rests
};

}  // namespace uffd
