#include "engine/serve/event/events.hpp"

#include <algorithm>
#include <array>
#include <new>

#include "engine/linux/message.hpp"
#include "engine/serve/served/journal.hpp"

namespace uffd {
namespace {

constexpr size_t kMostMessages = 64;

// The userfaultfds that FORK messages made, in their order.
class Children {
 public:
  // Takes the descriptor of a FORK message while forks are held, so that it does not slip into a
  // fork child of ours. Without forks held the message is about a child of this very process, whose
  // fork is under way: that child is not served, since ForkHole keeps this memory out of it, unless
  // somebody undid that. A descriptor that is not taken stays open unless the target is complete:
  // what the child misses must not turn into zeros.
  void take(const uffd_msg& message, const Userfaultfd& parent, const HeldForks& forks,
            bool complete) noexcept {
    const auto fd = static_cast<int>(message.arg.fork.ufd);
    try {
      if (forks) uffds_[count_] = Userfaultfd::of_fork(fd, parent, forks);
    } catch (const std::bad_alloc&) {
      complete = false;
    }
    if (uffds_[count_].fd() < 0 && complete) ::close(fd);
    ++count_;
  }
  Userfaultfd next() noexcept { return std::move(uffds_[next_++]); }

 private:
  std::array<Userfaultfd, kMostMessages> uffds_;
  size_t count_ = 0, next_ = 0;
};

class Application {
 public:
  Application(ServedTarget& served, Counters& counters, Children& children, const OnFork& on_fork)
      : served_(served), counters_(counters), children_(children), on_fork_(on_fork) {}

  void operator()(const uffd_msg& message) {
    if (message.event == UFFD_EVENT_PAGEFAULT) return;
    counters_.add(Count::events);
    try {
      std::visit(*this, decode(message));
    } catch (const std::bad_alloc&) {
      served_.target.lose_track();
    }
  }
  void operator()(const Fault&) {}
  void operator()(const UnknownEvent&) {}
  void operator()(const ForkEvent&) {
    counters_.add(Count::forks);
    if (Userfaultfd child = children_.next(); child.fd() >= 0) on_fork_(served_, std::move(child));
  }
  void operator()(const RemapEvent& event) {
    counters_.add(Count::remaps);
    const Range from{event.from, event.length};
    served_.target.moved(from, event.to);
    if (served_.fork_hole) served_.fork_hole->moved(from, event.to);
  }
  void operator()(const RemoveEvent& event) {
    counters_.add(Count::removes);
    const Range range{event.start, event.end - event.start};
    const uint64_t poisoned = served_.target.removed(range);
    counters_.add(Count::poisoned, poisoned);
    if (poisoned > 0) {
      journal().write({News::poisoned, served_.target.id(), poisoned, range, Cause::removed});
    }
  }
  void operator()(const UnmapEvent& event) {
    counters_.add(Count::unmaps);
    const Range range{event.start, event.end - event.start};
    served_.target.unmapped(range);
    if (served_.fork_hole) served_.fork_hole->unmapped(range);
  }

 private:
  ServedTarget& served_;
  Counters& counters_;
  Children& children_;
  const OnFork& on_fork_;
};

// Where the kernel writes messages to: the ledger, if there is one, so that an event that was read
// is known to whoever comes after this process.
std::span<uffd_msg> place_for(Target& target, std::span<uffd_msg> messages) noexcept {
  const size_t most = std::min(messages.size(), kMostMessages);
  return (target.ledger() ? target.ledger()->messages() : messages).first(most);
}

// Whether a read may make a descriptor that could slip into a fork child of ours.
bool makes_descriptors(const Target& target) noexcept {
  return (target.uffd().features() & UFFD_FEATURE_EVENT_FORK) != 0 && !target.is_this_process();
}

}  // namespace

ssize_t read_living(ServedTarget& served, std::span<uffd_msg> messages, Counters& counters,
                    const OnFork& on_fork) {
  const std::lock_guard alone(served.gate);
  Target& target = served.target;
  HeldForks forks;
  if (makes_descriptors(target) && !(forks = ForkClosedFd::try_hold_forks())) return -EBUSY;
  auto read = place_for(target, messages);
  const ssize_t count = target.uffd().read(read);
  if (count <= 0) return count;
  read = read.first(static_cast<size_t>(count));
  messages = messages.first(read.size());
  if (target.ledger()) std::ranges::copy(read, messages.begin());
  Children children;
  for (const uffd_msg& message : messages) {
    if (message.event != UFFD_EVENT_FORK) continue;
    if (!forks) forks = ForkClosedFd::try_hold_forks();
    children.take(message, target.uffd(), forks, served.complete());
  }
  if (forks) forks.unlock();
  Application apply(served, counters, children, on_fork);
  Ledger* const ledger = target.ledger();
  for (size_t i = 0; i < messages.size(); ++i) {
    if (ledger) ledger->begin(i);
    apply(messages[i]);
    if (ledger) ledger->clear(i);
  }
  if (ledger) ledger->end();
  return count;
}

unsigned apply_left(ServedTarget& served) {
  Ledger& ledger = *served.target.ledger();
  const OnFork on_fork = [](ServedTarget&, Userfaultfd) {};
  Counters counted;
  Children none;
  Application apply(served, counted, none, on_fork);
  unsigned lost = 0;
  for (size_t i = 0; i < ledger.messages().size(); ++i) {
    const uffd_msg message = ledger.messages()[i];
    if (message.event == UFFD_EVENT_FORK) ++lost;
    const bool is_applied =
        message.event == UFFD_EVENT_REMAP && ledger.phase_of(i) == LedgerHeader::moved;
    ledger.begin(i);
    if (message.event != 0 && !is_applied) apply(message);
    ledger.clear(i);
  }
  ledger.end();
  served.shared_counters.add(counted);
  return lost;
}

}  // namespace uffd
