#include "engine/serve/inline/inline_targets.hpp"

#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <mutex>
#include <span>
#include <string>

#include "engine/linux/at_fork.hpp"
#include "engine/serve/inline/inline_faults.hpp"
#include "engine/serve/served/served_target.hpp"

namespace uffd {
namespace inline_targets {
namespace {

constexpr size_t kMost = 1024;
constexpr size_t kRemembered = 64;
// How often memory that is not registered is touched again before its SIGBUS is not ours.
constexpr unsigned kTouchesOfAbsent = 3;

struct Entry {
  std::atomic<uint64_t> start{0}, end{0};  // all regions of the target lie between
  std::atomic<InlineFaults*> faults{nullptr};
  std::atomic<unsigned> users{0};  // threads that look at faults, most in signal handlers
};

struct Past {
  std::atomic<uint64_t> start{0}, end{0};
};

// The last SIGBUS of a thread that no target resolved, to recognise the same SIGBUS when it comes
// again.
struct Met {
  std::atomic<uint64_t> address{0};
  std::atomic<pid_t> thread{0};
  std::atomic<unsigned> times{0};
  std::atomic<bool> in_theirs{false};  // the signal handler that was installed before ours runs
};

std::array<Entry, kMost> entries;
std::atomic<size_t> entries_used{0};  // entries from here on are unused
std::array<Past, kRemembered> past;   // of targets that have ended
std::atomic<size_t> past_next{0};
std::array<Met, kRemembered> met;
std::atomic<pid_t> owner{0};

std::mutex mutex;  // for threads; signal handlers take no lock

bool is_on_sigbus(const struct sigaction& action) noexcept;

// Theirs: the disposition of SIGBUS that the process had before ours. A signal handler may read it
// at any instruction, so the copy in force is never written: the next one goes beside it.
class Theirs {
 public:
  // Under the mutex. Does nothing for our own disposition, and for the one that is in force
  // already.
  void publish(const struct sigaction& action) noexcept {
    if (is_on_sigbus(action) || same(action, get())) return;
    const unsigned next = published_.load(std::memory_order_relaxed) + 1;
    actions_[next % kKept] = action;
    published_.store(next, std::memory_order_release);
  }
  // Reads again where so many dispositions were published meanwhile that this copy was overwritten.
  struct sigaction get() noexcept {
    for (;;) {
      const unsigned seen = published_.load(std::memory_order_acquire);
      const struct sigaction action = actions_[seen % kKept];
      if (published_.fetch_add(0, std::memory_order_acq_rel) - seen < kKept - 1) return action;
    }
  }

 private:
  static constexpr unsigned kKept = 8;

  static bool same(const struct sigaction& a, const struct sigaction& b) noexcept {
    return a.sa_handler == b.sa_handler && a.sa_flags == b.sa_flags &&
           std::memcmp(&a.sa_mask, &b.sa_mask, sizeof a.sa_mask) == 0;
  }

  std::array<struct sigaction, kKept> actions_{};
  std::atomic<unsigned> published_{0};
};

Theirs before;

Met& met_by(pid_t thread) noexcept {
  return met[static_cast<size_t>(thread) % kRemembered];
}

// How often this thread met this address before, in a row. A signal that was sent (and is no fault)
// after that comes from a signal handler that raises it again.
unsigned met_before(bool is_fault, uint64_t address) noexcept {
  const auto thread = static_cast<pid_t>(::syscall(SYS_gettid));
  Met& last = met_by(thread);
  if (!is_fault) return last.thread == thread ? 2 : 0;
  // Their signal handler was left by siglongjmp(3): the SIGBUS that it met is dealt with.
  if (last.thread == thread && last.in_theirs.exchange(false)) last.thread = 0;
  if (last.thread.exchange(thread) == thread && last.address.exchange(address) == address)
    return last.times.fetch_add(1) + 1;
  last.address = address;
  last.times = 0;
  return 0;
}

bool is_past(uint64_t address) noexcept {
  return std::any_of(past.begin(), past.end(), [&](const Past& range) {
    return address >= range.start && address < range.end;
  });
}

bool is_ignored(const struct sigaction& action) noexcept {
  return !(action.sa_flags & SA_SIGINFO) && action.sa_handler == SIG_IGN;
}

bool has_handler(const struct sigaction& action) noexcept {
  return (action.sa_flags & SA_SIGINFO) || (action.sa_handler != SIG_DFL && !is_ignored(action));
}

// Calls their signal handler, with the same signals blocked as if the kernel had called it.
void call_theirs(const struct sigaction& theirs, int number, siginfo_t* info,
                 void* context) noexcept {
  sigset_t blocked = static_cast<const ucontext_t*>(context)->uc_sigmask;
  for (int other = 1; other < NSIG; ++other) {
    if (sigismember(&theirs.sa_mask, other) == 1) sigaddset(&blocked, other);
  }
  if (!(theirs.sa_flags & SA_NODEFER)) sigaddset(&blocked, number);
  std::atomic<bool>& in_theirs = met_by(static_cast<pid_t>(::syscall(SYS_gettid))).in_theirs;
  in_theirs = true;
  ::pthread_sigmask(SIG_SETMASK, &blocked, nullptr);
  if (theirs.sa_flags & SA_SIGINFO) {
    theirs.sa_sigaction(number, info, context);
  } else {
    theirs.sa_handler(number);
  }
  in_theirs = false;
}

// A SIGBUS that is not ours is first given to the signal handler that was installed before ours,
// which may recover. Where the same SIGBUS comes again, their disposition is put back, and meets
// the access as that runs again. Where the SIGBUS comes here once more, the default disposition
// ends the process.
void pass_on(int number, siginfo_t* info, void* context, unsigned times) noexcept {
  struct sigaction theirs = before.get();
  if (info->si_code <= 0 && is_ignored(theirs)) return;
  if (times == 0 && has_handler(theirs)) return call_theirs(theirs, number, info, context);
  if (times > 1 || is_ignored(theirs)) theirs = {};
  ::sigaction(SIGBUS, &theirs, nullptr);
  // A signal that was sent does not come again by itself.
  if (info->si_code <= 0) ::syscall(SYS_tgkill, ::getpid(), ::syscall(SYS_gettid), number);
}

InlineFaults::Verdict resolve(uint64_t address) noexcept {
  const size_t used = entries_used.load(std::memory_order_acquire);
  for (Entry& entry : std::span(entries).first(used)) {
    if (address < entry.start.load(std::memory_order_relaxed) ||
        address >= entry.end.load(std::memory_order_relaxed))
      continue;
    // Either remove() sees this user and waits, or this thread sees that faults is null.
    entry.users.fetch_add(1);
    InlineFaults* const faults = entry.faults.load();
    const auto verdict = faults ? faults->resolve(address) : InlineFaults::Verdict::not_mine;
    entry.users.fetch_sub(1);
    if (verdict != InlineFaults::Verdict::not_mine) return verdict;
  }
  return InlineFaults::Verdict::not_mine;
}

// How often the memory is touched again before its SIGBUS is passed on.
unsigned touches_spared(InlineFaults::Verdict verdict, bool is_fault, uint64_t address) noexcept {
  if (verdict == InlineFaults::Verdict::absent) return kTouchesOfAbsent;
  // The target may have ended since the touch: then the memory can be touched now.
  return is_fault && verdict == InlineFaults::Verdict::not_mine && is_past(address) ? 1 : 0;
}

void on_sigbus(int number, siginfo_t* info, void* context) {
  const int error = errno;
  const auto address = reinterpret_cast<uint64_t>(info->si_addr);
  const bool is_fault = info->si_code > 0 && ::getpid() == owner.load(std::memory_order_relaxed);
  const auto verdict = is_fault ? resolve(address) : InlineFaults::Verdict::not_mine;
  if (verdict != InlineFaults::Verdict::resolved) {
    const unsigned times = met_before(is_fault, address);
    const unsigned spared = touches_spared(verdict, is_fault, address);
    if (times >= spared) pass_on(number, info, context, times - spared);
  }
  errno = error;
}

bool is_on_sigbus(const struct sigaction& action) noexcept {
  return (action.sa_flags & SA_SIGINFO) && action.sa_sigaction == on_sigbus;
}

struct sigaction disposition() noexcept {
  struct sigaction now{};
  ::sigaction(SIGBUS, nullptr, &now);
  return now;
}

// Their disposition is published before ours can run. Where somebody took SIGBUS over in between,
// ours replaced another disposition, which is published, too.
void take_signal() noexcept {
  struct sigaction action{};
  action.sa_sigaction = on_sigbus;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  // The handler of another signal that touched missing memory meanwhile would end the process, as
  // SIGBUS is blocked. Signals that tell of our own mistakes are not blocked.
  sigfillset(&action.sa_mask);
  for (const int mistake : {SIGSEGV, SIGFPE, SIGILL, SIGTRAP}) sigdelset(&action.sa_mask, mistake);
  before.publish(disposition());
  struct sigaction replaced{};
  ::sigaction(SIGBUS, &action, &replaced);
  before.publish(replaced);
}

// A fork child serves none of the targets of the table: their memory is a hole there. It has no
// other threads, so no signal handler uses an entry.
void forget_in_child(void*) noexcept {
  for (Entry& entry : entries) {
    entry.faults = nullptr;
    entry.users = 0;
    entry.start = 0;
    entry.end = 0;
  }
  entries_used = 0;
  for (Past& range : past) range.end = 0;
  past_next = 0;
  for (Met& last : met) {
    last.address = 0;
    last.thread = 0;
    last.times = 0;
    last.in_theirs = false;
  }
  owner = ::getpid();
  mutex.unlock();
}

// Never destroyed: a fork may come as late as exit.
[[maybe_unused]] const AtFork& at_fork =
    *new AtFork(AtFork::Level::inline_table, nullptr,
                {.prepare = [](void*) noexcept { mutex.lock(); },
                 .in_parent = [](void*) noexcept { mutex.unlock(); },
                 .in_child = forget_in_child});

bool any() noexcept {
  return std::any_of(entries.begin(), entries.end(),
                     [](const Entry& entry) { return entry.faults.load() != nullptr; });
}

}  // namespace

void add(ServedTarget& served) {
  const std::lock_guard lock(mutex);
  const auto unused = std::find_if(entries.begin(), entries.end(), [](const Entry& entry) {
    return entry.faults.load() == nullptr && entry.users.load() == 0;
  });
  if (unused == entries.end()) {
    throw SystemError(EMFILE, "at most " + std::to_string(kMost) +
                                  " targets can be served inline: leave inline out for this one");
  }
  owner = ::getpid();
  if (!is_on_sigbus(disposition())) take_signal();
  uint64_t end = 0;
  for (const Region& region : served.target.regions().all()) end = region.range.end();
  unused->start = served.target.regions().all().front().range.start;
  unused->end = end;
  unused->faults = served.inline_faults.get();
  const auto used = static_cast<size_t>(unused - entries.begin()) + 1;
  entries_used = std::max(entries_used.load(), used);
}

void remove(ServedTarget& served) noexcept {
  const std::lock_guard lock(mutex);
  for (Entry& entry : entries) {
    if (entry.faults.load() != served.inline_faults.get()) continue;
    Past& range = past[past_next.fetch_add(1) % kRemembered];
    range.start = entry.start.load();
    range.end = entry.end.load();
    served.inline_faults->close();
    entry.faults = nullptr;
    while (entry.users.load() > 0) ::sched_yield();
  }
}

bool regain_signal() noexcept {
  const std::lock_guard lock(mutex);
  if (!any() || is_on_sigbus(disposition())) return false;
  take_signal();
  return true;
}

bool install(const Range& range) noexcept {
  bool whole = true;
  for (Entry& entry : entries) {
    entry.users.fetch_add(1);
    if (InlineFaults* const faults = entry.faults.load()) whole = faults->install(range) && whole;
    entry.users.fetch_sub(1);
  }
  return whole;
}

}  // namespace inline_targets

}  // namespace uffd
