#include "engine/serve/inline/inline_faults.hpp"

#include <sched.h>

#include <algorithm>

#include "engine/serve/served/mailbox.hpp"
#include "engine/serve/served/served_target.hpp"

namespace uffd {

InlineFaults::InlineFaults(ServedTarget& served) : served_(served) {
  served.target.poison_without_locks();
}

InlineFaults::Verdict InlineFaults::resolve(uint64_t address) noexcept {
  State state;
  while ((state = state_) == State::opening) ::sched_yield();
  if (state == State::closed) return Verdict::resolved;
  Target& target = served_.target;
  const Region* const region = target.regions().find(address);
  if (!region) return Verdict::not_mine;
  const uint64_t page = region->page_at(address);
  if (target.is_poisoned(region->address_of(page))) return Verdict::fatal;
  Counters counted;
  counted.add(Count::faults);
  const Outcome outcome = install(*region, page, counted);
  served_.shared_counters.add(counted);
  tell_if_settled();
  if (outcome == Outcome::failed && !target.residency().resident(page)) return Verdict::fatal;
  return counted.get(Count::enoent) > 0 ? Verdict::absent : Verdict::resolved;
}

// Another thread may have installed the page since the touch: then install_dropped() does no harm,
// since COPY and ZEROPAGE leave alone what is there.
Outcome InlineFaults::install(const Region& region, uint64_t page, Counters& counters) noexcept {
  Installer installer(served_.target, counters);
  const PageRun run = window(region, page);
  Outcome outcome;
  while ((outcome = served_.target.residency().resident(page)
                        ? installer.install_dropped(region, page)
                        : installer.install(region, run.first, run.end)) == Outcome::again)
    ::sched_yield();
  return outcome;
}

bool InlineFaults::install(const Range& range) noexcept {
  if (state_ != State::open) return true;
  Target& target = served_.target;
  bool whole = true;
  Counters counted;
  Installer installer(target, counted);
  for (const Region& region : target.regions().all()) {
    const Range part = region.range.intersection(range);
    if (part.length == 0) continue;
    const uint64_t end = region.page_at(part.end() - 1) + 1;
    const Residency& residency = target.residency();
    for (uint64_t first = region.page_at(part.start);
         (first = residency.next_missing(first, end)) < end;) {
      const uint64_t run_end = residency.next_resident(first, std::min(end, first + 64));
      Outcome outcome;
      while ((outcome = installer.install(region, first, run_end)) == Outcome::again)
        ::sched_yield();
      whole = whole && outcome == Outcome::done;
      first = run_end;
    }
    for (const Range& poisoned : target.poisoned())
      whole = whole && poisoned.intersection(part).length == 0;
  }
  served_.shared_counters.add(counted);
  tell_if_settled();
  return whole;
}

PageRun InlineFaults::window(const Region& region, uint64_t page) noexcept {
  const Residency& residency = served_.target.residency();
  if (served_.settings.fault_around) {
    const uint64_t most =
        std::min<uint64_t>(*served_.settings.fault_around, region.end_page() - page);
    return {page, residency.next_resident(page + 1, page + most)};
  }
  if (learning_.exchange(true, std::memory_order_acquire)) return {page, page + 1};
  const PageRun run = streams_.window(residency, region, page);
  learning_.store(false, std::memory_order_release);
  return run;
}

// Wakes the handler, which tells the ender: a signal handler may not take the locks for that.
void InlineFaults::tell_if_settled() noexcept {
  if (served_.complete() || served_.gone) served_.mailbox->signal();
}

}  // namespace uffd
