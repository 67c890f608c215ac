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

// A source has a few reads under way, and some sources never answer.
constexpr size_t kMostThreads = 64;
constexpr size_t kMostIdle = FetchPool::kReadsOfSource;

// Empty where the source failed.
std::span<const std::byte> read(const FetchRequest& request, std::span<std::byte> room) {
  try {
    request.source->read(request.offset, room);
    return room;
#ifdef __GLIBCXX__  // with libc++ no handler catches the end of a thread
  } catch (const abi::__forced_unwind&) {
    throw;  // an interpreter that ends has this thread end here
#endif
  } catch (...) {
    return {};  // the source's function reports its own errors
  }
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
  void fetch();
  void serve(const FetchRequest& request, Staging& staging);
  std::span<const std::byte> read_in_time(const FetchRequest& request, Staging& staging);
  // Without bytes the pages are poisoned.
  void settle_in_time(const FetchRequest& request, std::span<const std::byte> bytes);
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
  if (source.deadline() && !has_clock_) start_clock();
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
  if (idle_ > 0 || threads_ >= kMostThreads) return;
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
    lock.unlock();
    serve(*request, staging);
    lock.lock();
    queue_.finish(request);
    if (queue_.has_work()) work_.notify_one();
    tell(lock);
  }
  --threads_;
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

void FetchPool::State::serve(const FetchRequest& request, Staging& staging) {
  const auto bytes = read_in_time(request, staging);
  if (!bytes.empty() || request.end - request.first == 1) return settle_in_time(request, bytes);
  // Whatever failed, only the pages that fail alone are poisoned.
  for (uint64_t page = request.first; page < request.end; ++page) {
    const FetchRequest one = request.of_page(page);
    const auto its_bytes = read_in_time(one, staging);
    settle_in_time(one, its_bytes);
  }
}

// Where memory is short the source is not to blame: the read is tried again, until the pool stops.
std::span<const std::byte> FetchPool::State::read_in_time(const FetchRequest& request,
                                                          Staging& staging) {
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

void FetchPool::State::settle_in_time(const FetchRequest& request,
                                      std::span<const std::byte> bytes) {
  const auto once = [&] {
    return bytes.empty() ? poison(request, Cause::unanswered) : settle(request, bytes.data());
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
      clock_.wait_for(lock, std::chrono::nanoseconds(due - now));
    }
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
    if (queue_.has_work()) work_.notify_one();
    tell(lock);
  }
}

}  // namespace uffd
