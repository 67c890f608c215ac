#include "engine/serve/handler/fault_server.hpp"

#include <new>

#include "engine/serve/adoption/adoption.hpp"

namespace uffd {

ssize_t FaultServer::read(Charge& charge, size_t most) {
  ServedTarget& served = *charge.served;
  const std::span<uffd_msg> room = messages().first(most);
  if (!served.living) return served.target.uffd().read(room);
  return read_living(served, room, served.handler_counters, on_fork_);
}

FaultServer::Times FaultServer::serve(Charge& charge, size_t count) {
  ServedTarget& served = *charge.served;
  const uint64_t read_at = sys::monotonic_ns();
  const auto read = messages().first(count);
  const Batch batch(read);
  served.handler_counters.add(Count::reads);
  served.handler_counters.add(Count::faults, batch.faults());
  if (batch.minor_faults()) served.handler_counters.add(Count::minor_faults, batch.minor_faults());
  if (batch.write_faults()) served.handler_counters.add(Count::write_faults, batch.write_faults());
  fillers_.give_way();
  if (served.adoption) served.adoption->see(read, read_at);
  return {read_at, resolve(charge, batch.keys(), read_at)};
}

void FaultServer::try_again(Charge& charge) {
  const PendingFaults::Taken taken = charge.pending.take();
  resolve(charge, taken.all(), taken.read_at);
}

uint64_t FaultServer::resolve(Charge& charge, std::span<const FaultKey> keys, uint64_t read_at) {
  ServedTarget& served = *charge.served;
  // A parent has the same handler: while it is served, nobody closes its userfaultfd.
  const auto parent = served.parent.lock();
  const bool has_parent = parent && parent->life.is_served();
  Resolver resolver(served, charge.window, has_parent ? &parent->target : nullptr);
  uint64_t done_at = read_at;
  while (!keys.empty()) {
    Resolver::Resolution resolution;
    try {
      resolution = resolver.resolve(keys);
    } catch (const std::bad_alloc&) {
      const std::lock_guard alone(served.gate);
      served.target.lose_track();
      continue;
    }
    const auto covered = keys.first(resolution.covered);
    keys = keys.subspan(resolution.covered);
    if (!resolution.to_fetch) {
      done_at = conclude(charge, resolution.outcome, covered, read_at);
    } else if (!fetch(served, resolution)) {
      conclude(charge, Outcome::again, covered, read_at);
    }
  }
  return done_at;
}

bool FaultServer::fetch(ServedTarget& served, const Resolver::Resolution& resolution) noexcept {
  const auto [first, end] = *resolution.to_fetch;
  return fetchers_.request(served, first, end, resolution.page, FetchPool::Urgency::fault) != 0;
}

uint64_t FaultServer::conclude(Charge& charge, Outcome outcome, std::span<const FaultKey> keys,
                               uint64_t read_at) noexcept {
  ServedTarget& served = *charge.served;
  if (outcome == Outcome::gone) served.gone.store(true, std::memory_order_relaxed);
  if (outcome == Outcome::again) {
    for (const FaultKey key : keys) {
      if (!charge.pending.add(key, read_at))
        served.target.uffd().wake(key.address(), sys::page_size());
    }
    return read_at;
  }
  const uint64_t now = sys::monotonic_ns();
  for (size_t i = 0; i < keys.size(); ++i) served.latency.record(now - read_at);
  return now;
}

}  // namespace uffd
