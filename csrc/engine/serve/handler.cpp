#include "engine/serve/handler.hpp"

#include <algorithm>

#include "engine/linux/message.hpp"

namespace uffd {
namespace {

struct Run {
  uint64_t first, end;  // pages
  size_t covered;       // how many of the batch's addresses lie in it
};

// The missing pages around page that its fault-around window admits.
Run window_around(const ServedTarget& served, const Region& region, uint64_t page) noexcept {
  const uint64_t window = served.fault_around;
  if (window == 1) return {page, page + 1, 1};
  const Residency& residency = served.target.residency();
  const uint64_t number = region.address_of(page) / region.page_size;
  const uint64_t before = std::min(number % window, page - region.first_page);
  const uint64_t after = std::min(window - number % window, region.end_page() - page);
  return {residency.run_begin(page, page - before), residency.next_resident(page + 1, page + after),
          1};
}

// Widens the run over faults that adjoin it, up to a length that keeps no fault waiting for long.
Run coalesce(const ServedTarget& served, const Region& region,
             std::span<const uint64_t> addresses) noexcept {
  constexpr uint64_t longest = 64;
  Run run = window_around(served, region, region.page_at(addresses[0]));
  for (; run.covered < addresses.size() && addresses[run.covered] < region.range.end();
       ++run.covered) {
    const uint64_t page = region.page_at(addresses[run.covered]);
    if (page < run.end) continue;
    if (page > run.end || run.end - run.first >= longest ||
        served.target.residency().resident(page))
      break;
    run.end = window_around(served, region, page).end;
  }
  return run;
}

constexpr int kWatchMs = static_cast<int>(Watchdog::kPause.count());

// What epoll returns for a target's process is its address with this bit: its userfaultfd has the
// plain one.
constexpr uintptr_t kProcessTag = 1;
static_assert(alignof(ServedTarget) > kProcessTag);

void* tagged(ServedTarget& served) noexcept {
  return reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(&served) | kProcessTag);
}
bool is_tagged(const void* data) noexcept {
  return (reinterpret_cast<uintptr_t>(data) & kProcessTag) != 0;
}
ServedTarget& untagged(void* data) noexcept {
  return *reinterpret_cast<ServedTarget*>(reinterpret_cast<uintptr_t>(data) & ~kProcessTag);
}

}  // namespace

Handler::Handler(const std::string& name, std::optional<Cpu> cpu, EndQueue& ends)
    : ends_(ends),
      epoll_(or_throw(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")),
      watchdog_(ends) {
  const int result = sys::epoll_add(epoll_.get(), wake_.get(), EPOLLIN, nullptr);
  if (result < 0) throw SystemError(-result, "epoll_ctl of a handler's eventfd");
  thread_ = start_thread(name, cpu, [this] { run(); });
}

Handler::~Handler() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.signal();
  thread_.join();
}

void Handler::add(ServedTarget& served) {
  // Edge-triggered: a short read drains the queue, and every later fault is an edge.
  const int result =
      sys::epoll_add(epoll_.get(), served.target.uffd().fd(), EPOLLIN | EPOLLET, &served);
  if (result < 0) throw SystemError(-result, "epoll_ctl of the userfaultfd");
  // Without it the watchdog notices the same, a little later.
  if (served.process)
    sys::epoll_add(epoll_.get(), served.process.get(), EPOLLIN | EPOLLET, tagged(served));
  {
    const std::lock_guard lock(mutex_);
    served_.push_back(&served);
  }
  targets_.fetch_add(1, std::memory_order_relaxed);
}

void Handler::remove(ServedTarget& served) {
  sys::epoll_remove(epoll_.get(), served.target.uffd().fd());
  if (served.process) sys::epoll_remove(epoll_.get(), served.process.get());
  std::unique_lock lock(mutex_);
  to_remove_.push_back(&served);
  ask(lock);
  targets_.fetch_sub(1, std::memory_order_relaxed);
}

void Handler::settle() {
  std::unique_lock lock(mutex_);
  ask(lock);
}

void Handler::ask(std::unique_lock<std::mutex>& lock) {
  const uint64_t ticket = ++asked_;
  wake_.signal();
  obeyed_.wait(lock, [&] { return answered_ >= ticket; });
}

void Handler::run() {
  std::array<epoll_event, 16> events;
  for (;;) {
    const int retry_ms = retry_.timeout_ms();
    const int count = sys::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()),
                                      retry_ms >= 0 ? retry_ms : kWatchMs);
    bool asked = false;
    for (int i = 0; i < count; ++i) {
      void* const data = events[static_cast<size_t>(i)].data.ptr;
      if (!data) {
        asked = true;
      } else if (is_tagged(data)) {
        watchdog_.check_life(untagged(data));
      } else {
        serve(*static_cast<ServedTarget*>(data));
      }
    }
    if (count == 0 && retry_ms < 0) watch();
    retry_.run_due([this](const RetryQueue::Entry& entry) {
      resolve_run(*entry.served, std::span(&entry.address, 1), entry.read_at);
      announce_if_settled(*entry.served);
    });
    // Last: what epoll_wait returned before may name a target that is to be removed.
    if (asked && obey()) return;
  }
}

void Handler::serve(ServedTarget& served) {
  for (;;) {
    const ssize_t count = served.target.uffd().read(messages_);
    if (count <= 0) return;
    const auto read = static_cast<size_t>(count);
    served.handler_counters.add(Count::reads);
    served.handler_counters.add(Count::faults, read);
    served.in_service.store(true, std::memory_order_relaxed);
    resolve(served, std::span(messages_).first(read));
    served.in_service.store(false, std::memory_order_relaxed);
    announce_if_settled(served);
    if (read < kBatch) return;
  }
}

void Handler::resolve(ServedTarget& served, std::span<const uffd_msg> messages) {
  const uint64_t read_at = sys::monotonic_ns();
  size_t count = 0;
  for (const uffd_msg& message : messages) {
    if (message.event != UFFD_EVENT_PAGEFAULT) {
      served.handler_counters.add(Count::events);
      continue;
    }
    addresses_[count++] = message.arg.pagefault.address;
  }
  auto addresses = std::span(addresses_).first(count);
  if (count > 1) {
    // One message per sleeping thread: a page may come more than once.
    std::sort(addresses.begin(), addresses.end());
    const auto end = std::unique(addresses.begin(), addresses.end());
    addresses = addresses.first(static_cast<size_t>(end - addresses.begin()));
  }
  while (!addresses.empty()) addresses = addresses.subspan(resolve_run(served, addresses, read_at));
}

size_t Handler::resolve_run(ServedTarget& served, std::span<const uint64_t> addresses,
                            uint64_t read_at) {
  Installer installer(served.target, served.handler_counters);
  const Region* region = served.target.regions().find(addresses[0]);
  size_t covered = 1;
  Outcome outcome;
  if (!region) {
    outcome = installer.poison_stray(addresses[0]);
  } else if (const uint64_t page = region->page_at(addresses[0]);
             served.target.residency().resident(page)) {
    outcome = installer.install_dropped(*region, page);
  } else {
    const Run run = coalesce(served, *region, addresses);
    outcome = installer.install(*region, run.first, run.end);
    covered = run.covered;
  }
  conclude(served, outcome, addresses.first(covered), read_at);
  return covered;
}

void Handler::conclude(ServedTarget& served, Outcome outcome, std::span<const uint64_t> addresses,
                       uint64_t read_at) {
  if (outcome == Outcome::gone) served.gone.store(true, std::memory_order_relaxed);
  if (outcome == Outcome::again) {
    for (const uint64_t address : addresses) {
      if (!retry_.push({&served, address, read_at})) {
        const uint64_t page = address & ~(sys::page_size() - 1);
        served.target.uffd().wake(page, sys::page_size());
      }
    }
    return;
  }
  const uint64_t nanoseconds = sys::monotonic_ns() - read_at;
  for (size_t i = 0; i < addresses.size(); ++i) served.latency.record(nanoseconds);
}

void Handler::announce_if_settled(ServedTarget& served) {
  if (served.target.residency().missing() == 0 || served.gone.load(std::memory_order_relaxed))
    ends_.announce(served);
}

void Handler::watch() {
  const std::lock_guard lock(mutex_);
  for (ServedTarget* served : served_) {
    watchdog_.check_life(*served);
    watchdog_.check_sleepers(*served);
  }
}

bool Handler::obey() {
  wake_.drain();
  const std::lock_guard lock(mutex_);
  for (ServedTarget* served : to_remove_) {
    retry_.forget(*served);
    std::erase(served_, served);
  }
  to_remove_.clear();
  answered_ = asked_;
  obeyed_.notify_all();
  return stopping_;
}

}  // namespace uffd
