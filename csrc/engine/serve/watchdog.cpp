#include "engine/serve/watchdog.hpp"

#include "engine/linux/fdinfo.hpp"

namespace uffd {

void Watchdog::check_life(ServedTarget& served) {
  if (served.target.is_this_process() || !served.target.address_space_gone()) return;
  if (!served.gone.exchange(true)) ends_.push(served, EndRequest::settled);
}

void Watchdog::check_sleepers(ServedTarget& served) {
  CountValues counts{};
  served.handler_counters.add_to(counts);
  const uint64_t faults = counts[static_cast<size_t>(Count::faults)];
  const bool quiet = served.watched_sleepers > 0 && served.watched_faults == faults &&
                     served.outstanding_fetches == 0;
  // Who touches what can be neither supplied nor poisoned sleeps for good, and rightly.
  const bool hopeless = counts[static_cast<size_t>(Count::failed)] > 0;
  const auto info = read_fdinfo(served.target.uffd().fd());
  served.watched_sleepers = info ? info->total : 0;
  served.watched_faults = faults;
  if (!quiet || hopeless || served.watched_sleepers == 0) return;
  served.handler_counters.add(Count::lost_wakes, served.watched_sleepers);
  served.watched_sleepers = 0;
  wake_all(served.target);
}

}  // namespace uffd
