#include "engine/serve/fetch_pool.hpp"

#include <cxxabi.h>

#include <algorithm>
#include <deque>
#include <iterator>
#include <set>
#include <utility>

#include "engine/linux/thread.hpp"
#include "engine/serve/installer.hpp"
#include "engine/serve/staging.hpp"

namespace uffd {
namespace {

constexpr size_t kThreads = 4;
constexpr std::chrono::milliseconds kPauseBeforeRetry{1};

struct Request {
  std::shared_ptr<ServedTarget> served;
  SourcePtr source;
  uint64_t offset;
  uint64_t page_size;
  uint64_t first, end;  // pages
  uint64_t start;       // address of the first, when it was asked for
  uint64_t due;         // by CLOCK_MONOTONIC; UINT64_MAX: never
};

struct ByPlace {
  bool operator()(const Request& a, const Request& b) const {
    return std::pair(a.served.get(), a.first) < std::pair(b.served.get(), b.first);
  }
};

uint64_t due_of(const Source& source) noexcept {
  const auto deadline = source.deadline();
  return deadline ? sys::monotonic_ns() + static_cast<uint64_t>(deadline->count()) : UINT64_MAX;
}

Request page_of(const Request& request, uint64_t page) {
  const uint64_t bytes = (page - request.first) * request.page_size;
  Request one = request;
  one.first = page;
  one.end = page + 1;
  one.offset += bytes;
  one.start += bytes;
  return one;
}

// One pass over the request's pages that are missing still: installs, or without bytes poisons,
// what it can.
Outcome install_missing(const Request& request, const std::byte* bytes) {
  ServedTarget& served = *request.served;
  const auto shared = served.installing();
  Target& target = served.target;
  Installer installer(target, served.fetcher_counters);
  Outcome worst = Outcome::done;
  uint64_t installed_to = request.first;
  bool skipped = false;
  for (uint64_t first = request.first;
       (first = target.residency().next_missing(first, request.end)) < request.end;) {
    const Region* region = target.regions().find_page(first);
    const uint64_t end =
        target.residency().next_resident(first, std::min(request.end, region->end_page()));
    skipped = skipped || first != installed_to;
    installed_to = end;
    const Outcome outcome =
        bytes ? installer.install(*region, first, end,
                                  bytes + (first - request.first) * request.page_size)
              : installer.poison(*region, first, end);
    if (outcome >= Outcome::again) return outcome;
    worst = std::max(worst, outcome);
    first = end;
  }
  // Who sleeps for a page that was settled otherwise, or moved meanwhile, or at another place of
  // it, is woken by nobody else.
  target.uffd().wake(request.start, (request.end - request.first) * request.page_size);
  if (skipped || installed_to != request.end || !target.aliases().empty()) wake_all(target);
  return worst;
}

}  // namespace

struct FetchPool::State {
  explicit State(EndQueue& queue) : ends(&queue) {}

  // Empty where the source failed.
  std::span<const std::byte> fetch(const Request& request, Staging& staging);
  std::span<std::byte> room_in_time(const Request& request, Staging& staging);
  bool settle(const Request& request, const std::byte* bytes);
  void settle_in_time(const Request& request, std::span<const std::byte> bytes);
  // Under the mutex: whoever is first, of a fetcher and the deadline.
  void forget(const Request& request) {
    if (asked.erase(request)) request.served->outstanding_fetches.fetch_sub(1);
  }

  EndQueue* ends;  // not touched once the pool is gone: its targets are removed before
  std::function<void()> done;
  std::mutex mutex;
  std::condition_variable work;
  std::deque<Request> faults, fills;  // queued
  std::set<Request, ByPlace> asked;   // queued or under way
  size_t threads = 0;
  size_t calling_done = 0;
  std::condition_variable called;
  bool stopping = false;
};

FetchPool::FetchPool(EndQueue& ends) : state_(std::make_shared<State>(ends)) {}

FetchPool::~FetchPool() {
  std::unique_lock lock(state_->mutex);
  state_->stopping = true;
  state_->work.notify_all();
  state_->called.wait(lock, [this] { return state_->calling_done == 0; });
}

void FetchPool::on_done(std::function<void()> done) {
  state_->done = std::move(done);
}

uint64_t FetchPool::request(ServedTarget& served, uint64_t first, uint64_t end, uint64_t page,
                            Urgency urgency) {
  const Region& region = *served.target.regions().find_page(page);
  Request request{served.shared_from_this(), region.source, 0, region.page_size, page, page + 1, 0,
                  due_of(*region.source)};
  const std::lock_guard lock(state_->mutex);
  const auto next = state_->asked.upper_bound(request);
  if (next != state_->asked.begin()) {
    const Request& before = *std::prev(next);
    if (before.served == request.served) {
      if (page < before.end) return before.end;
      first = std::max(first, before.end);
    }
  }
  if (next != state_->asked.end() && next->served == request.served)
    end = std::min(end, next->first);
  request.first = first;
  request.end = end;
  request.offset = region.offset_of(first);
  request.start = region.address_of(first);
  served.outstanding_fetches.fetch_add(1);
  state_->asked.insert(request);
  (urgency == Urgency::fault ? state_->faults : state_->fills).push_back(std::move(request));
  if (state_->threads < kThreads) {
    ++state_->threads;
    start_thread("uffd-fetch", std::nullopt, [state = state_] { run(state); }).detach();
  }
  state_->work.notify_one();
  return end;
}

void FetchPool::remove(ServedTarget& served) {
  {
    const std::lock_guard lock(state_->mutex);
    const auto is_of = [&](const Request& request) { return request.served.get() == &served; };
    std::erase_if(state_->faults, is_of);
    std::erase_if(state_->fills, is_of);
    std::erase_if(state_->asked, is_of);
  }
  const std::lock_guard lock(served.using_uffd);
  served.uffd_let_go = true;
}

void FetchPool::expire() {
  std::vector<Request> due;
  std::unique_lock lock(state_->mutex);
  const uint64_t now = sys::monotonic_ns();
  std::copy_if(state_->asked.begin(), state_->asked.end(), std::back_inserter(due),
               [now](const Request& request) { return request.due <= now; });
  lock.unlock();
  for (const Request& request : due) {
    if (!state_->settle(request, nullptr)) continue;  // the next time
    lock.lock();
    state_->forget(request);
    lock.unlock();
  }
}

void FetchPool::run(const std::shared_ptr<State>& state) {
  Staging staging;
  std::unique_lock lock(state->mutex);
  for (;;) {
    state->work.wait(
        lock, [&] { return state->stopping || !state->faults.empty() || !state->fills.empty(); });
    if (state->stopping) return;
    auto& queue = state->faults.empty() ? state->fills : state->faults;
    const Request request = std::move(queue.front());
    queue.pop_front();
    lock.unlock();

    const auto bytes = state->fetch(request, staging);
    if (!bytes.empty() || request.end - request.first == 1) {
      state->settle_in_time(request, bytes);
    } else {
      // Whatever failed, only the pages that fail alone are poisoned.
      for (uint64_t page = request.first; page < request.end; ++page)
        state->settle_in_time(page_of(request, page),
                              state->fetch(page_of(request, page), staging));
    }

    lock.lock();
    state->forget(request);
    if (state->stopping) return;
    ++state->calling_done;
    lock.unlock();
    state->done();
    lock.lock();
    --state->calling_done;
    state->called.notify_all();
  }
}

std::span<const std::byte> FetchPool::State::fetch(const Request& request, Staging& staging) {
  const auto bytes = room_in_time(request, staging);
  if (bytes.empty()) return {};
  try {
    request.source->read(request.offset, bytes);
    return bytes;
  } catch (const abi::__forced_unwind&) {
    throw;  // this thread ends here: an interpreter that ends does so to it
  } catch (...) {
    return {};  // whoever wrote the source has said why
  }
}

// That memory is short says nothing of the source. Empty when the pool stops.
std::span<std::byte> FetchPool::State::room_in_time(const Request& request, Staging& staging) {
  for (;;) {
    try {
      return staging.room(request.start, (request.end - request.first) * request.page_size);
    } catch (const std::exception&) {
      std::unique_lock lock(mutex);
      if (work.wait_for(lock, kPauseBeforeRetry, [&] { return stopping; })) return {};
    }
  }
}

void FetchPool::State::settle_in_time(const Request& request, std::span<const std::byte> bytes) {
  while (!settle(request, bytes.empty() ? nullptr : bytes.data())) {
    std::unique_lock lock(mutex);
    work.wait_for(lock, kPauseBeforeRetry, [&] { return stopping; });
  }
}

// False where it must be tried again.
bool FetchPool::State::settle(const Request& request, const std::byte* bytes) {
  ServedTarget& served = *request.served;
  const std::lock_guard use(served.using_uffd);
  if (served.uffd_let_go) return true;
  const Outcome outcome = install_missing(request, bytes);
  if (outcome == Outcome::again) return false;
  served.fetcher_counters.add(Count::fetches);
  if (outcome == Outcome::gone) served.gone.store(true, std::memory_order_relaxed);
  ends->announce_if_settled(served);
  return true;
}

}  // namespace uffd
