#include "engine/serve/events.hpp"

#include "engine/linux/message.hpp"
#include "engine/serve/installer.hpp"

namespace uffd {
namespace {

class Application {
 public:
  Application(ServedTarget& served, Counters& counters,
              const std::unique_lock<std::mutex>& held_forks)
      : served_(served), counters_(counters), held_forks_(held_forks) {}

  void operator()(const Fault&) {}
  void operator()(const UnknownEvent&) { counters_.add(Count::events); }
  void operator()(const ForkEvent& event) {
    counters_.add(Count::events);
    counters_.add(Count::forks);
    children.push_back(std::make_shared<ServedTarget>(
        served_, Userfaultfd::of_fork(event.fd, served_.target.uffd(), held_forks_)));
  }
  void operator()(const RemapEvent& event) {
    counters_.add(Count::events);
    counters_.add(Count::remaps);
    const Range from{event.from, event.length};
    served_.target.moved(from, event.to);
    if (served_.fork_hole) served_.fork_hole->moved(from, event.to);
  }
  void operator()(const RemoveEvent& event) {
    counters_.add(Count::events);
    counters_.add(Count::removes);
    counters_.add(Count::poisoned, served_.target.removed({event.start, event.end - event.start}));
  }
  void operator()(const UnmapEvent& event) {
    counters_.add(Count::events);
    counters_.add(Count::unmaps);
    const Range range{event.start, event.end - event.start};
    served_.target.unmapped(range);
    if (served_.fork_hole) served_.fork_hole->unmapped(range);
  }

  std::vector<std::shared_ptr<ServedTarget>> children;

 private:
  ServedTarget& served_;
  Counters& counters_;
  const std::unique_lock<std::mutex>& held_forks_;
};

// A descriptor that read() makes must not slip into a fork child of ours. A target of this very
// process sleeps in fork() with forks held, until its event is read: it is read without.
std::unique_lock<std::mutex> hold_forks(const Target& target) {
  const bool forks = (target.uffd().features() & UFFD_FEATURE_EVENT_FORK) != 0;
  if (!forks || target.is_this_process()) return {};
  return ForkClosedFd::hold_forks();
}

}  // namespace

LivingRead read_living(ServedTarget& served, std::span<uffd_msg> messages, Counters& counters) {
  const std::lock_guard alone(served.gate);
  std::unique_lock<std::mutex> held_forks = hold_forks(served.target);
  LivingRead result;
  result.count = served.target.uffd().read(messages);
  if (result.count <= 0) return result;
  Application apply(served, counters, held_forks);
  for (const uffd_msg& message : messages.first(static_cast<size_t>(result.count))) {
    if (message.event == UFFD_EVENT_PAGEFAULT) continue;
    if (message.event == UFFD_EVENT_FORK && !held_forks) held_forks = ForkClosedFd::hold_forks();
    std::visit(apply, decode(message));
  }
  result.children = std::move(apply.children);
  return result;
}

void settle_unserved(ServedTarget& child, Counters& counters) {
  Installer installer(child.target, counters);
  const bool poisons = (offered_features() & UFFD_FEATURE_POISON) != 0;
  for (const Region& region : child.target.regions().all()) {
    const uint64_t first = region.first_page, end = region.end_page();
    const auto settle = [&] {
      return poisons || region.late() ? installer.poison(region, first, end)
                                      : installer.install(region, first, end);
    };
    Outcome outcome = settle();
    for (; outcome == Outcome::again; outcome = settle()) ::sched_yield();  // memory is short
    if (outcome == Outcome::gone) return;
  }
}

}  // namespace uffd
