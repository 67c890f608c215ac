#include "engine/serve/handler.hpp"

#include <algorithm>

#include "engine/linux/time_slice.hpp"
#include "engine/serve/events.hpp"

namespace uffd {
namespace {

struct Run {
  uint64_t first, end;  // pages
  size_t covered;       // how many of the batch's addresses lie in it
};

// The missing pages around page in its aligned window of so many.
PageRun aligned_window(const Residency& residency, const Region& region, uint64_t page,
                       uint64_t window) noexcept {
  const uint64_t number = region.address_of(page) / region.page_size;
  const uint64_t before = std::min(number % window, page - region.first_page);
  const uint64_t after = std::min(window - number % window, region.end_page() - page);
  return {residency.run_begin(page, page - before),
          residency.next_resident(page + 1, page + after)};
}

// What is installed with a page while a fill is under way: all pages come anyway, and the fewer
// faults the sooner, as long as none waits longer than for a filler's chunk.
constexpr uint64_t kBytesWhileFilling = 32 * 4096;

// The missing pages around page that its fault-around window admits.
Run window_around(ServedTarget& served, const Region& region, uint64_t page) noexcept {
  const Residency& residency = served.target.residency();
  if (served.fault_around) {
    if (*served.fault_around == 1) return {page, page + 1, 1};
    const PageRun run = aligned_window(residency, region, page, *served.fault_around);
    return {run.first, run.end, 1};
  }
  PageRun run = served.streams.window(residency, region, page);
  if (served.filling.load(std::memory_order_relaxed) && region.page_size < kBytesWhileFilling) {
    const PageRun around =
        aligned_window(residency, region, page, kBytesWhileFilling / region.page_size);
    run = {std::min(run.first, around.first), std::max(run.end, around.end)};
  }
  return {run.first, run.end, 1};
}

// A fault in one word, so that a batch is sorted and freed of duplicates as numbers: the address of
// its page, and of its flags those that say how to resolve it.
constexpr uint64_t kKeyFlags = UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_MINOR;

uint64_t fault_key(const uffd_msg& message) noexcept {
  const uint64_t address = message.arg.pagefault.address & ~(sys::page_size() - 1);
  return address | (message.arg.pagefault.flags & kKeyFlags);
}
uint64_t address_of(uint64_t key) noexcept {
  return key & ~kKeyFlags;
}

// Widens the run over faults of the same kind that adjoin it, up to a length that keeps no fault
// waiting for long.
Run coalesce(ServedTarget& served, const Region& region, std::span<const uint64_t> keys) noexcept {
  constexpr uint64_t longest = 64;
  Run run = window_around(served, region, region.page_at(address_of(keys[0])));
  for (; run.covered < keys.size() && keys[run.covered] < region.range.end(); ++run.covered) {
    const uint64_t page = region.page_at(address_of(keys[run.covered]));
    if ((keys[run.covered] & kKeyFlags) != (keys[0] & kKeyFlags)) break;
    if (page < run.end) continue;
    if (page > run.end || run.end - run.first >= longest ||
        served.target.residency().resident(page))
      break;
    run.end = window_around(served, region, page).end;
  }
  return run;
}

constexpr int kReviewMs = Adoption::kReviewNs / 1'000'000;
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

// It runs for microseconds at a time, and somebody sleeps until it has.
constexpr std::chrono::microseconds kTimeSlice{100};

// How often a fault that met EAGAIN is tried again before the timer takes it.
constexpr unsigned kPatience = 32;

Fd spare_descriptor() noexcept {
  return Fd(::eventfd(0, EFD_CLOEXEC));
}

bool lacks_descriptor(ssize_t result) noexcept {
  return result == -EMFILE || result == -ENFILE || result == -ENOMEM;
}

void leave_unserved(ServedTarget& child) {
  child.unserved.store(true);
  settle_unserved(child, child.handler_counters);
}

bool is_fork_child(const ServedTarget& served) noexcept {
  return served.target.pid() == kUnknownPid;
}

}  // namespace

Handler::Handler(const std::string& name, std::optional<Cpu> cpu, EndQueue& ends, FillPool& fillers,
                 FetchPool& fetchers, Roster& roster)
    : cpu_(cpu),
      ends_(ends),
      fillers_(fillers),
      fetchers_(fetchers),
      roster_(roster),
      epoll_(or_throw(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")),
      spare_(spare_descriptor()),
      watchdog_(ends) {
  const int result = sys::epoll_add(epoll_.get(), wake_.get(), EPOLLIN, nullptr);
  if (result < 0) throw SystemError(-result, "epoll_ctl of a handler's eventfd");
  thread_ = start_thread(name, cpu, [this] { run(); });
}

Handler::~Handler() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    notify();
  }
  thread_.join();
}

void Handler::add(ServedTarget& served) {
  const int result = epoll_add_userfaultfd(served);
  if (result < 0) throw SystemError(-result, "epoll_ctl of the userfaultfd");
  // Without it the watchdog notices the same, a little later.
  if (served.process)
    sys::epoll_add(epoll_.get(), served.process.get(), EPOLLIN | EPOLLET, tagged(served));
  {
    const std::lock_guard lock(mutex_);
    served_.push_back(&served);
    if (served.adoption) adopting_.fetch_add(1, std::memory_order_relaxed);
    targets_.fetch_add(1, std::memory_order_relaxed);
    notify();
  }
}

// Edge-triggered: a short read drains the queue, and every later fault is an edge.
int Handler::epoll_add_userfaultfd(ServedTarget& served) noexcept {
  return sys::epoll_add(epoll_.get(), served.target.uffd().fd(), EPOLLIN | EPOLLET, &served);
}

void Handler::remove(ServedTarget& served) {
  std::unique_lock lock(mutex_);
  to_remove_.push_back(&served);
  ask(lock);
  targets_.fetch_sub(1, std::memory_order_relaxed);
}

void Handler::adopt(ServedTarget& parent, const std::shared_ptr<ServedTarget>& child) {
  child->parent = parent.weak_from_this();
  add_child(parent, child);
  roster_.add(child);
  children_.fetch_add(1, std::memory_order_relaxed);
  try {
    add(*child);
  } catch (const SystemError&) {                       // no memory, or too many epoll watches
    targets_.fetch_add(1, std::memory_order_relaxed);  // remove() takes it away
    leave_unserved(*child);
  }
  if (child->settled()) {
    ends_.announce(*child);
  } else if (fillers_.is_filling(parent)) {
    fillers_.start(*child);
  }
}

void Handler::settle() {
  std::unique_lock lock(mutex_);
  ask(lock);
}

void Handler::notify() {
  wake_.signal();
  if (reader_) reader_->interrupt();
}

void Handler::ask(std::unique_lock<std::mutex>& lock) {
  const uint64_t ticket = ++asked_;
  notify();
  obeyed_.wait(lock, [&] { return answered_ >= ticket; });
}

void Handler::run() {
  ask_for_time_slices(kTimeSlice);
  SoleReader reader;
  {
    const std::lock_guard lock(mutex_);
    reader_ = &reader;
  }
  while (serve_all()) {
    if (last_faulting_ && is_sole(*last_faulting_)) serve_alone(*last_faulting_);
  }
  const std::lock_guard lock(mutex_);
  reader_ = nullptr;
}

bool Handler::serve_all() {
  std::array<epoll_event, 16> events;
  const int retry_ms = retry_.timeout_ms();
  const int watch_ms = holds_threads_ ? kReviewMs : kWatchMs;
  const int timeout_ms = retry_ms >= 0 ? std::min(retry_ms, watch_ms) : watch_ms;
  const int count = await_events(events, timeout_ms);
  bool asked = false;
  for (const epoll_event& event :
       std::span(events).first(static_cast<size_t>(std::max(count, 0)))) {
    void* const data = event.data.ptr;
    if (!data) {
      asked = true;
    } else if (is_tagged(data)) {
      watchdog_.check_life(untagged(data));
    } else {
      serve(*static_cast<ServedTarget*>(data));
    }
  }
  if (count == 0 && timeout_ms == kWatchMs) watch();
  if (adopting_.load(std::memory_order_relaxed) > 0) review_adoptions();
  if (children_.load(std::memory_order_relaxed) > 0) watch_children();
  if (retry_ms >= 0) {
    const uint64_t now = sys::monotonic_ns();
    while (const auto entry = retry_.pop_due(now)) come_back(*entry);
  }
  // Last: what epoll_wait returned before may name a target that is to be removed.
  return !asked || !obey();
}

int Handler::await_events(std::span<epoll_event> events, int timeout_ms) {
  const auto wait = [&](int milliseconds) {
    return sys::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()),
                           milliseconds);
  };
  if (last_faulting_) {
    const int count = spinning_.spin([&] { return wait(0); });
    if (count != 0) return count;
    last_faulting_ = nullptr;
  }
  return wait(timeout_ms);
}

bool Handler::is_sole(const ServedTarget& served) const noexcept {
  return targets_.load(std::memory_order_relaxed) == 1 && !served.living && retry_.empty();
}

void Handler::serve_alone(ServedTarget& served) {
  const Userfaultfd& uffd = served.target.uffd();
  if (!reader_->enter(uffd)) return;
  sys::epoll_remove(epoll_.get(), uffd.fd());
  bool busy = false;
  while (retry_.empty() && !reader_->interrupted()) {
    const ssize_t count = await_messages();
    if (count > 0) {
      serve_messages(served, static_cast<size_t>(count));
      busy = true;
    } else if (count != -EINTR || !std::exchange(busy, false)) {
      break;
    }
  }
  reader_->leave();
  watch_again(served);
  last_faulting_ = nullptr;
}

// Where others have taken the last watch meanwhile, or memory is short, it is read on a timer.
void Handler::watch_again(ServedTarget& served) {
  if (epoll_add_userfaultfd(served) == 0) return;
  const uint64_t now = sys::monotonic_ns();
  retry_.push({&served, RetryKind::unwatched, 0, now, now + RetryQueue::kPauseNs});
}

ssize_t Handler::await_messages() {
  if (!reader_->can_look()) return reader_->read(messages_);
  const ssize_t count = spinning_.spin([this]() -> ssize_t {
    const ssize_t found = reader_->try_read(messages_);
    return found == -EAGAIN ? 0 : found;
  });
  return count > 0 ? count : reader_->read(messages_);
}

void Handler::come_back(const RetryQueue::Entry& entry) {
  ServedTarget& served = *entry.served;
  switch (entry.kind) {
    case RetryKind::fault:
      resolve_run(served, std::span(&entry.place, 1), entry.read_at);
      break;
    case RetryKind::read:
      return serve(served);
    case RetryKind::unwatched:
      watch_again(served);
      return serve(served);
    case RetryKind::deadline:
      if (const Region* region = served.target.regions().find_page(entry.place)) {
        const Outcome outcome = Installer(served.target, served.handler_counters)
                                    .poison(*region, entry.place, entry.place + 1);
        if (outcome == Outcome::again) {
          RetryQueue::Entry later = entry;
          later.due = sys::monotonic_ns() + RetryQueue::kPauseNs;
          retry_.push(later);
        }
      }
      break;
  }
  ends_.announce_if_settled(served);
}

void Handler::serve(ServedTarget& served) {
  while (serve_batch(served) == kBatch) {
  }
  // EAGAIN lasts until the thread behind an event has run again: let it run, and look for the next
  // event.
  for (unsigned left = kPatience; left > 0 && retry_.hasten(served); --left) {
    ::sched_yield();
    serve_batch(served);
    const uint64_t now = sys::monotonic_ns();
    while (const auto entry = retry_.pop_due(now)) come_back(*entry);
  }
}

size_t Handler::serve_batch(ServedTarget& served) {
  const ssize_t count = read(served);
  if (count <= 0) return 0;
  serve_messages(served, static_cast<size_t>(count));
  return static_cast<size_t>(count);
}

void Handler::serve_messages(ServedTarget& served, size_t count) {
  served.handler_counters.add(Count::reads);
  fillers_.give_way();
  resolve(served, std::span(messages_).first(count));
  last_faulting_ = &served;
  ends_.announce_if_settled(served);
}

ssize_t Handler::read(ServedTarget& served) {
  if (!served.living) return served.target.uffd().read(messages_);
  LivingRead result = read_living(served, messages_, served.handler_counters);
  if (lacks_descriptor(result.count) && make_room())
    result = read_living(served, messages_, served.handler_counters);
  if (lacks_descriptor(result.count)) {
    const uint64_t now = sys::monotonic_ns();
    retry_.push({&served, RetryKind::read, 0, now, now + RetryQueue::kPauseNs});
  }
  for (const auto& child : result.children) {
    // Whoever took the last descriptor gives it back at once.
    if (!spare_) spare_ = spare_descriptor();
    if (!spare_) leave_unserved(*child);
    adopt(served, child);
  }
  return result.count;
}

// The policy where no descriptor is left for a fork child: those of children that have died are
// closed first; else the child gets the spare one for as long as it takes to poison what it misses.
// The event is queued behind the others meanwhile, so that none of them waits for it.
bool Handler::make_room() {
  watch_children_at_ = 0;
  watch_children();
  const auto ends = [](const ServedTarget* other) {
    return other->gone || (other->end_announced && !other->endless());
  };
  const std::lock_guard lock(mutex_);
  if (std::any_of(served_.begin(), served_.end(), ends) || !spare_) return false;
  spare_.close();
  return true;
}

void Handler::resolve(ServedTarget& served, std::span<const uffd_msg> messages) {
  const uint64_t read_at = sys::monotonic_ns();
  size_t count = 0;
  size_t minor = 0, write = 0;
  for (const uffd_msg& message : messages) {
    if (message.event != UFFD_EVENT_PAGEFAULT) continue;
    const uint64_t key = fault_key(message);
    minor += (key & UFFD_PAGEFAULT_FLAG_MINOR) != 0;
    write += (key & UFFD_PAGEFAULT_FLAG_WP) != 0;
    keys_[count++] = key;
  }
  if (served.adoption) served.adoption->see(messages, read_at);
  served.handler_counters.add(Count::faults, count);
  if (minor) served.handler_counters.add(Count::minor_faults, minor);
  if (write) served.handler_counters.add(Count::write_faults, write);
  auto keys = std::span(keys_).first(count);
  if (count > 1) {
    // One message per sleeping thread: a page may come more than once.
    std::sort(keys.begin(), keys.end());
    const auto end = std::unique(keys.begin(), keys.end());
    keys = keys.first(static_cast<size_t>(end - keys.begin()));
  }
  while (!keys.empty()) keys = keys.subspan(resolve_run(served, keys, read_at));
}

size_t Handler::resolve_run(ServedTarget& served, std::span<const uint64_t> keys,
                            uint64_t read_at) {
  Installer installer(served.target, served.handler_counters);
  const uint64_t address = address_of(keys[0]);
  const Region* region = served.target.regions().find(address);
  const bool minor = (keys[0] & UFFD_PAGEFAULT_FLAG_MINOR) != 0;
  size_t covered = 1;
  Outcome outcome;
  if (keys[0] & UFFD_PAGEFAULT_FLAG_WP) {
    outcome = resolve_write(served, address);
  } else if (!region) {
    outcome = resolve_stray(served, address);
  } else if (const uint64_t page = region->page_at(address);
             served.target.residency().resident(page)) {
    // What is dropped of an image's memory has the image's bytes again.
    outcome = minor || region->image() ? installer.install(*region, page, page + 1)
                                       : installer.install_dropped(*region, page);
  } else {
    const Run run = coalesce(served, *region, keys);
    if (region->late(run.first, run.end)) {
      fetch(served, *region, page, {run.first, run.end}, read_at);
      return 1;
    }
    outcome = installer.install(*region, run.first, run.end);
    covered = run.covered;
    // Of a batch with one run, that took as long as the install.
    if (!served.fault_around && covered == keys.size())
      served.streams.learn_speed((run.end - run.first) * region->page_size,
                                 sys::monotonic_ns() - read_at);
  }
  conclude(served, outcome, keys.first(covered), read_at);
  return covered;
}

Outcome Handler::resolve_stray(ServedTarget& served, uint64_t address) {
  if (!served.living)
    return Installer(served.target, served.handler_counters).install_stray(address);
  const auto parent = served.parent.lock();
  if (parent && serves(*parent) && parent->target.is_changing()) return Outcome::again;
  {
    const std::lock_guard alone(served.gate);
    if (served.target.catch_up(address)) return Outcome::again;
  }
  if (const auto page = served.target.aliased_page(address)) {
    const Region* region = served.target.regions().find_page(*page);
    if (region && region->late() && !served.target.residency().resident(*page)) {
      fetch(served, *region, *page, {*page, *page + 1}, sys::monotonic_ns());
      return Outcome::done;
    }
    return Installer(served.target, served.handler_counters).install_alias(address, *page);
  }
  return Installer(served.target, served.handler_counters).install_stray(address);
}

// Noted before the page may be written: whoever reads what was written to misses nothing.
Outcome Handler::resolve_write(ServedTarget& served, uint64_t address) {
  const Region* region = served.target.regions().find(address);
  if (region && served.target.written()) served.target.written()->add(region->page_at(address), 1);
  return Installer(served.target, served.handler_counters)
      .unprotect({address, region ? region->page_size : sys::page_size()});
}

void Handler::fetch(ServedTarget& served, const Region& region, uint64_t page, PageRun run,
                    uint64_t read_at) {
  fetchers_.request(served, run.first, run.end, page, FetchPool::Urgency::fault);
  if (const auto deadline = region.source->deadline()) {
    const auto wait_ns = static_cast<uint64_t>(deadline->count());
    retry_.push({&served, RetryKind::deadline, page, read_at, read_at + wait_ns});
  }
}

void Handler::conclude(ServedTarget& served, Outcome outcome, std::span<const uint64_t> keys,
                       uint64_t read_at) {
  if (outcome == Outcome::gone) served.gone.store(true, std::memory_order_relaxed);
  if (outcome == Outcome::again) {
    for (const uint64_t key : keys) {
      if (!retry_.push_fault(served, key, read_at))
        served.target.uffd().wake(address_of(key), sys::page_size());
    }
    return;
  }
  const uint64_t nanoseconds = sys::monotonic_ns() - read_at;
  for (size_t i = 0; i < keys.size(); ++i) served.latency.record(nanoseconds);
}

// Whether it was not removed yet, so that nobody closes its userfaultfd.
bool Handler::serves(const ServedTarget& served) {
  const std::lock_guard lock(mutex_);
  return std::find(served_.begin(), served_.end(), &served) != served_.end();
}

void Handler::watch() {
  const std::lock_guard lock(mutex_);
  for (ServedTarget* served : served_) {
    watchdog_.check_life(*served);
    watchdog_.check_sleepers(*served);
  }
}

void Handler::review_adoptions() {
  const uint64_t now = sys::monotonic_ns();
  holds_threads_ = false;
  const std::lock_guard lock(mutex_);
  for (ServedTarget* served : served_) {
    if (!served->adoption) continue;
    served->adoption->review_when_due(now);
    holds_threads_ = holds_threads_ || served->adoption->held() > 0;
  }
}

void Handler::watch_children() {
  const uint64_t now = sys::monotonic_ns();
  if (now < watch_children_at_) return;
  watch_children_at_ =
      now + static_cast<uint64_t>(std::chrono::nanoseconds(Watchdog::kPause).count());
  const std::lock_guard lock(mutex_);
  for (ServedTarget* served : served_) {
    if (is_fork_child(*served)) watchdog_.check_life(*served);
  }
}

bool Handler::obey() {
  wake_.drain();
  if (!spare_) spare_ = spare_descriptor();
  const std::lock_guard lock(mutex_);
  reader_->resume();
  if (!to_remove_.empty()) last_faulting_ = nullptr;
  for (ServedTarget* served : to_remove_) {
    sys::epoll_remove(epoll_.get(), served->target.uffd().fd());
    if (served->process) sys::epoll_remove(epoll_.get(), served->process.get());
    retry_.forget(*served);
    std::erase(served_, served);
    if (served->adoption) adopting_.fetch_sub(1, std::memory_order_relaxed);
    if (is_fork_child(*served)) children_.fetch_sub(1, std::memory_order_relaxed);
  }
  to_remove_.clear();
  for (ServedTarget* served : served_) {
    if (served->inline_faults) ends_.announce_if_settled(*served);
  }
  answered_ = asked_;
  obeyed_.notify_all();
  return stopping_;
}

}  // namespace uffd
