#include "engine/serve/served_target.hpp"

namespace uffd {

Stats collect_stats(const ServedTarget& served) {
  Stats stats;
  served.handler_counters.add_to(stats.counts);
  served.ender_counters.add_to(stats.counts);
  for (const Counters& counters : served.filler_counters) counters.add_to(stats.counts);
  for (size_t i = 0; i < LatencyHistogram::kBuckets; ++i)
    stats.latency[i] = served.latency.count(i);
  return stats;
}

uint64_t count(const ServedTarget& served, Count which) {
  return collect_stats(served).counts[static_cast<size_t>(which)];
}

}  // namespace uffd
