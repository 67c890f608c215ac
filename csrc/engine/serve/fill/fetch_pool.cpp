#include "engine/serve/fill/fetch_pool.hpp"

#include <cxxabi.h>

#include <chrono>
#include <new>

#include "engine/linux/thread.hpp"
#include "engine/serve/fill/fetch_queue.hpp"
#include "engine/serve/fill/staging.hpp"
#include "engine/serve/served/patience.hpp"

namespace uffd {
namespace {

constexpr size_t kMostThreads = 64;
constexpr size_t kMostIdle = FetchPool::kReadsOfSource;

// The bytes, or what the source threw: neither, where the request's target has ended.
struct Read {
  std::span<const std::byte> bytes = {};
  std::exception_ptr error = {};
};

Read read(const FetchRequest& request, std::span<std::byte> room) {
  try {
    request.source->read(request.offset, room);
    return {.bytes = room};
#ifdef __GLIBCXX__  // with libc++ no handler catches the end of a thread
  } catch (const abi::__forced_unwind&) {
    throw;  // an interpreter that ends has this thread end here
#endif
  } catch (...) {
    return {.error = std::current_exception()};
  }
}

std::chrono::nanoseconds nanoseconds(uint64_t count) {
  return std::chrono::nanoseconds(static_cast<int64_t>(count));
}

}  // namespace

class FetchPool::State : public std::enable_shared_from_this<State> {
 public:
  void make_ready_for(const Source& source);
  uint64_t request(ServedTarget& served, uint64_t first, uint64_t end, uint64_t page,
                   Urgency urgency);
  void forget(const ServedTarget& served) {
    const std::lock_guard lock(mutex_);
    queue_.forget(served);
  }
  void stop();
  void on_done(std::function<void()> done);

 private:
  using RequestPtr = FetchQueue::RequestPtr;

  // start_fetcher() and start_clock() throw std::system_error where no thread can be started.
  void start_fetcher();
  void start_clock();
  void start_fetcher_if_needed();
  void pass_work_on();
  void fetch();
  // False where the request is to rest now.
  bool serve(FetchRequest& request, Staging& staging);
  Read read_in_time(const FetchRequest& request, Staging& staging);
  bool may_try_again(FetchRequest& request);
  // Without bytes the pages are poisoned.
  void settle_in_time(const FetchRequest& request, const Read& answer);
  void rest(std::unique_lock<std::mutex>& lock, const RequestPtr& request);
  bool pause(Patience& patience);
  void watch_deadlines();
  void tell(std::unique_lock<std::mutex>& lock);

  std::mutex mutex_;
  std::condition_variable work_, clock_, told_, stopped_;
  FetchQueue queue_{kReadsOfSource};
  size_t threads_ = 0, idle_ = 0;
  std::function<void()> done_;  // constant while somebody is telling
  size_t telling_ = 0;
  bool has_clock_ = false;
  bool stopping_ = false;
};

FetchPool::FetchPool() : state_(std::make_shared<State>()) {}

FetchPool::~FetchPool() {
  state_->stop();
}

void FetchPool::on_done(std::function<void()> done) {
  state_->on_done(std::move(done));
}

void FetchPool::make_ready_for(const Source& source) {
  state_->make_ready_for(source);
}

uint64_t FetchPool::request(ServedTarget& served, uint64_t first, uint64_t end, uint64_t page,
                            Urgency urgency) noexcept {
  try {
    return state_->request(served, first, end, page, urgency);
  } catch (const std::bad_alloc&) {
    return 0;
  }
}

void FetchPool::forget(const ServedTarget& served) {
  state_->forget(served);
}

void FetchPool::State::on_done(std::function<void()> done) {
  std::unique_lock lock(mutex_);
  told_.wait(lock, [this] { return telling_ == 0; });
  done_ = std::move(done);
}

void FetchPool::State::stop() {
  std::unique_lock lock(mutex_);
  stopping_ = true;
  work_.notify_all();
  clock_.notify_all();
  stopped_.notify_all();
  told_.wait(lock, [this] { return telling_ == 0; });
}

void FetchPool::State::make_ready_for(const Source& source) {
  if (!source.late()) return;
  const std::lock_guard lock(mutex_);
  // Others may be in reads that never return.
  if (threads_ == 0) {
    start_fetcher();
  } else {
    start_fetcher_if_needed();
  }
  const bool is_timed = source.deadline() || source.retry().allows(1, {});
  if (is_timed && !has_clock_) start_clock();
}

void FetchPool::State::start_fetcher() {
  ++threads_;
  try {
    start_thread("uffd-fetch", std::nullopt, [self = shared_from_this()] {
      self->fetch();
    }).detach();
  } catch (...) {
    --threads_;
    throw;
  }
}

void FetchPool::State::start_fetcher_if_needed() {
  if (idle_ > 0) return;
  if (threads_ >= kMostThreads && !queue_.has_work_of_idle_source()) return;
  try {
    start_fetcher();
  } catch (const std::exception&) {
    // The threads that there are take all requests in turn.
  }
}

void FetchPool::State::start_clock() {
  start_thread("uffd-clock", std::nullopt, [self = shared_from_this()] {
    self->watch_deadlines();
  }).detach();
  has_clock_ = true;
}

uint64_t FetchPool::State::request(ServedTarget& served, uint64_t first, uint64_t end,
                                   uint64_t page, Urgency urgency) {
  const Region& region = *served.target.regions().find_page(page);
  const std::lock_guard lock(mutex_);
  if (const RequestPtr before = queue_.narrow(served, page, first, end)) return before->end;
  auto request = std::make_shared<FetchRequest>(
      FetchRequest{served.shared_from_this(), region.source, region.offset_of(first),
                   region.page_size, first, end, region.address_of(first)});
  request->of_fault = urgency == Urgency::fault;
  queue_.push(request, sys::monotonic_ns());
  clock_.notify_one();
  if (queue_.has_work()) start_fetcher_if_needed();
  work_.notify_one();
  return end;
}

void FetchPool::State::fetch() {
  Staging staging;
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const RequestPtr request = queue_.begin(sys::monotonic_ns());
    if (!request) {
      if (idle_ >= kMostIdle) break;
      ++idle_;
      work_.wait(lock);
      --idle_;
      continue;
    }
    clock_.notify_one();
    pass_work_on();
    lock.unlock();
    const bool done = serve(*request, staging);
    lock.lock();
    if (!done) {
      rest(lock, request);
      continue;
    }
    queue_.finish(request);
    pass_work_on();
    tell(lock);
  }
  --threads_;
}

// A thread that was idle when a request came may have begun another one.
void FetchPool::State::pass_work_on() {
  if (!queue_.has_work()) return;
  start_fetcher_if_needed();
  work_.notify_one();
}

void FetchPool::State::rest(std::unique_lock<std::mutex>& lock, const RequestPtr& request) {
  const auto length = Retry::pause(request->failures);
  for (Patience patience; !stopping_;) {
    try {
      queue_.rest(request, sys::monotonic_ns() + static_cast<uint64_t>(length.count()));
      clock_.notify_one();
      return;
    } catch (const std::bad_alloc&) {
      stopped_.wait_for(lock, patience.pause());
    }
  }
}

void FetchPool::State::tell(std::unique_lock<std::mutex>& lock) {
  if (stopping_ || !done_) return;
  ++telling_;
  lock.unlock();
  done_();
  lock.lock();
  --telling_;
  told_.notify_all();
}

bool FetchPool::State::serve(FetchRequest& request, Staging& staging) {
  const Read answer = read_in_time(request, staging);
  if (answer.error && may_try_again(request)) return false;
  if (!answer.error || request.end - request.first == 1) {
    settle_in_time(request, answer);
    return true;
  }
  for (uint64_t page = request.first; page < request.end; ++page) {
    const FetchRequest one = request.of_page(page);
    settle_in_time(one, read_in_time(one, staging));
  }
  return true;
}

bool FetchPool::State::may_try_again(FetchRequest& request) {
  const uint64_t now = sys::monotonic_ns();
  const std::lock_guard lock(mutex_);
  if (request.overdue || request.forgotten || !request.served->life.is_served()) return false;
  if (++request.failures == 1) request.failed_at = now;
  return request.source->retry().allows(request.failures, nanoseconds(now - request.failed_at));
}

// Where memory is short the source is not to blame: the read is tried again, until the pool stops.
Read FetchPool::State::read_in_time(const FetchRequest& request, Staging& staging) {
  for (Patience patience;;) {
    std::span<std::byte> room;
    try {
      room = staging.room(request.start, request.length());
    } catch (const std::exception&) {
      if (!pause(patience) || !request.served->life.is_served()) return {};
      continue;
    }
    return read(request, room);
  }
}

void FetchPool::State::settle_in_time(const FetchRequest& request, const Read& answer) {
  if (answer.error) request.source->failed(answer.error);
  const auto once = [&] {
    return answer.bytes.empty() ? poison(request, {Cause::unanswered, answer.error})
                                : settle(request, answer.bytes.data());
  };
  for (Patience patience; once() == Outcome::again;) {
    if (!pause(patience)) return;
  }
}

// False when the pool stops.
bool FetchPool::State::pause(Patience& patience) {
  if (patience.at_once()) {
    ::sched_yield();
    return true;
  }
  std::unique_lock lock(mutex_);
  return !stopped_.wait_for(lock, patience.pause(), [this] { return stopping_; });
}

void FetchPool::State::watch_deadlines() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const uint64_t due = queue_.next_due(), now = sys::monotonic_ns();
    if (due == FetchRequest::kNever) {
      clock_.wait(lock);
    } else if (due > now) {
      clock_.wait_for(lock, nanoseconds(due - now));
    }
    queue_.wake_rested(sys::monotonic_ns());
    while (const RequestPtr request = queue_.take_due(sys::monotonic_ns())) {
      lock.unlock();
      const Outcome outcome = poison(*request, Cause::late);
      lock.lock();
      const uint64_t then = sys::monotonic_ns();
      if (outcome == Outcome::again) {
        queue_.postpone(request, then + static_cast<uint64_t>(
                                            std::chrono::nanoseconds(Patience::kLongest).count()));
      } else {
        queue_.expired(request, then);
      }
    }
    pass_work_on();
    tell(lock);
  }
}

}  // namespace uffd
