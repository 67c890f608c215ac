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
  messages = messages.first(std::min(messages.size(), kMostMessages));
  const ssize_t count = target.uffd().read(messages);
  if (count <= 0) return count;
  messages = messages.first(static_cast<size_t>(count));
  Children children;
  for (const uffd_msg& message : messages) {
    if (message.event != UFFD_EVENT_FORK) continue;
    if (!forks) forks = ForkClosedFd::try_hold_forks();
    children.take(message, target.uffd(), forks, served.complete());
  }
  if (forks) forks.unlock();
  Application apply(served, counters, children, on_fork);
  for (const uffd_msg& message : messages) {
    if (message.event == UFFD_EVENT_PAGEFAULT) continue;
    counters.add(Count::events);
    try {
      std::visit(apply, decode(message));
    } catch (const std::bad_alloc&) {
      target.lose_track();
    }
  }
  return count;
}

}  // namespace uffd
