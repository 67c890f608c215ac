#include "engine/serve/fill/fill_job.hpp"

#include <algorithm>
#include <utility>

namespace uffd {
namespace {

// Without a fault for so long a target counts as idle.
constexpr uint64_t kIdleNs = 1'000'000;

}  // namespace

void FillJob::restart(Kind kind) {
  const std::lock_guard lock(cutting_);
  kind_ = kind;
  cursor_ = 0;
}

bool FillJob::gives_way() noexcept {
  if (!served_->fill_when_idle.load(std::memory_order_relaxed)) return false;
  const uint64_t faults = served_->handler_counters.get(Count::faults);
  if (std::exchange(faults_seen_, faults) == faults) return false;
  not_before = sys::monotonic_ns() + kIdleNs;
  return true;
}

FillJob::Step FillJob::step() {
  const Lease lease(*served_);
  if (!lease) return Step::dropped;
  Step without = Step::none;
  const std::optional<Chunk> chunk = cut(without);
  if (!chunk) return without;
  const uint64_t began = sys::monotonic_ns();
  if (chunk->source) chunk->source->prepare(chunk->offset, chunk->length);
  Counters counted;
  const Outcome outcome = settle(*chunk, counted);
  served_->shared_counters.add(counted);
  learn(*chunk, outcome, sys::monotonic_ns() - began);
  if (outcome == Outcome::gone) {
    served_->tell_gone();
    return Step::dropped;
  }
  // Although some call met EAGAIN every page may be settled: others settle them, too.
  served_->tell_if_complete();
  if (outcome == Outcome::again) return Step::again;
  return Step::done;
}

std::optional<FillJob::Chunk> FillJob::cut(Step& without) {
  const std::lock_guard lock(cutting_);
  const auto shared = served_->installing();
  const Target& target = served_->target;
  const Residency& residency = target.residency();
  for (;;) {
    const uint64_t first = residency.next_missing(cursor_, residency.pages());
    cursor_ = first;
    const Region* const region =
        first == residency.pages() ? nullptr : target.regions().find_page(first);
    if (!region) return std::nullopt;
    const uint64_t end = residency.next_resident(
        first + 1, std::min(first + most_pages(*region, first), region->end_page()));
    const bool late = region->late(first, end);
    if (kind_ == Kind::poison && (late || (offered_features() & UFFD_FEATURE_POISON))) {
      cursor_ = end;
      return Chunk{first, end, nullptr, 0, 0, true};
    }
    if (!late) {
      cursor_ = end;
      return Chunk{first, end, region->source, region->offset_of(first),
                   (end - first) * region->page_size};
    }
    if (served_->outstanding_fetches >= FetchPool::kEnough) return std::nullopt;
    const uint64_t asked = fetchers_.request(*served_, first, end, first, FetchPool::Urgency::fill);
    if (asked == 0) {
      without = Step::again;  // memory is short
      return std::nullopt;
    }
    cursor_ = asked;
  }
}

uint64_t FillJob::most_pages(const Region& region, uint64_t first) const {
  const uint64_t best = region.late() ? region.source->best_read() : 0;
  if (best < region.page_size) return size_.pages(region.page_size);
  const uint64_t at =
      region.source->best_by_address() ? region.address_of(first) : region.offset_of(first);
  return std::max<uint64_t>(1,
                            (best - at % best) / region.page_size);  // neither need be whole pages
}

// Of a living target, regions may have been split, moved or unmapped since the chunk was cut.
Outcome FillJob::settle(const Chunk& chunk, Counters& counted) const {
  const auto shared = served_->installing();
  Target& target = served_->target;
  Installer installer(target, counted);
  const Cause cause = served_->unserved ? Cause::unserved : Cause::asked;
  Outcome worst = Outcome::done;
  for (uint64_t first = chunk.first;
       (first = target.residency().next_missing(first, chunk.end)) < chunk.end;) {
    const Region* const region = target.regions().find_page(first);
    if (!region) return Outcome::failed;  // see Target::lose_track()
    const uint64_t end =
        target.residency().next_resident(first, std::min(chunk.end, region->end_page()));
    const Outcome outcome = chunk.poisons ? installer.poison(*region, first, end, cause)
                                          : installer.install(*region, first, end);
    if (outcome >= Outcome::again) return outcome;
    worst = std::max(worst, outcome);
    first = end;
  }
  return worst;
}

void FillJob::learn(const Chunk& chunk, Outcome outcome, uint64_t nanoseconds) {
  if (outcome != Outcome::done && outcome != Outcome::again) return;
  const std::lock_guard lock(cutting_);
  if (outcome == Outcome::done) size_.learn(chunk.length, nanoseconds);
  if (outcome == Outcome::again) cursor_ = std::min(cursor_, chunk.first);
}

}  // namespace uffd
