#include "engine/serve/fill/fetch_request.hpp"

#include <algorithm>

namespace uffd {
namespace {

// The bytes, or why there are none.
struct Answer {
  const std::byte* bytes = nullptr;
  Blame blame{Cause::unanswered};
};

Outcome settle_missing(const FetchRequest& request, const Answer& answer, Counters& counted) {
  const std::byte* const bytes = answer.bytes;
  ServedTarget& served = *request.served;
  const auto shared = served.installing();
  Target& target = served.target;
  Installer installer(target, counted);
  Outcome worst = Outcome::done;
  uint64_t settled_to = request.first;
  bool skipped = false;
  for (uint64_t first = request.first;
       (first = target.residency().next_missing(first, request.end)) < request.end;) {
    const Region* region = target.regions().find_page(first);
    if (!region) return Outcome::failed;  // see Target::lose_track()
    const uint64_t end =
        target.residency().next_resident(first, std::min(request.end, region->end_page()));
    skipped = skipped || first != settled_to;
    settled_to = end;
    const Outcome outcome =
        bytes ? installer.install(*region, first, end,
                                  bytes + (first - request.first) * request.page_size)
              : installer.poison(*region, first, end, answer.blame);
    if (outcome >= Outcome::again) return outcome;
    worst = std::max(worst, outcome);
    first = end;
  }
  if (!bytes) {
    const Outcome outcome = installer.poison_dropped(request.first, request.end, answer.blame);
    if (outcome >= Outcome::again) return outcome;
    worst = std::max(worst, outcome);
  }
  // Nobody else wakes a thread that sleeps for one of these pages after another thread settled the
  // page, after the page moved, or at an alias.
  target.uffd().wake(request.start, request.length());
  if (skipped || settled_to != request.end || !target.aliases().empty()) wake_all(target);
  return worst;
}

Outcome settle(const FetchRequest& request, const Answer& answer) {
  ServedTarget& served = *request.served;
  const Lease lease(served);
  if (!lease) return Outcome::done;
  Counters counted;
  const Outcome outcome = settle_missing(request, answer, counted);
  if (outcome != Outcome::again) counted.add(Count::fetches);
  served.shared_counters.add(counted);
  if (outcome == Outcome::again) return outcome;
  if (outcome == Outcome::gone) served.tell_gone();
  served.tell_if_complete();
  return outcome;
}

}  // namespace

FetchRequest FetchRequest::of_page(uint64_t page) const {
  const uint64_t bytes = (page - first) * page_size;
  FetchRequest one = *this;
  one.first = page;
  one.end = page + 1;
  one.offset += bytes;
  one.start += bytes;
  return one;
}

Outcome settle(const FetchRequest& request, const std::byte* bytes) {
  return settle(request, Answer{.bytes = bytes});
}

Outcome poison(const FetchRequest& request, const Blame& blame) {
  return settle(request, Answer{.blame = blame});
}

}  // namespace uffd
