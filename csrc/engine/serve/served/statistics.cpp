#include "engine/serve/served/statistics.hpp"

#include <algorithm>

namespace uffd {

Stats collect_stats(const ServedTarget& served) {
  Stats stats;
  served.handler_counters.add_to(stats.counts);
  served.shared_counters.add_to(stats.counts);
  uint64_t& found = stats.counts[static_cast<size_t>(Count::found_present)];
  found -= std::min(found, stats.counts[static_cast<size_t>(Count::came_second)]);
  for (size_t i = 0; i < LatencyHistogram::kBuckets; ++i)
    stats.latency[i] = served.latency.count(i);
  return stats;
}

uint64_t count(const ServedTarget& served, Count which) {
  return collect_stats(served).counts[static_cast<size_t>(which)];
}

}  // namespace uffd
