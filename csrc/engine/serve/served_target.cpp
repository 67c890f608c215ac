#include "engine/serve/served_target.hpp"

#include <algorithm>

namespace uffd {
namespace {

constexpr size_t kEndedChildrenKept = 256;

uint64_t next_id() noexcept {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

std::shared_ptr<LocalMemory> local_memory_of(const ServedTarget& served) {
  const std::lock_guard lock(served.mutex);
  return served.local_memory;
}

}  // namespace

ServedTarget::ServedTarget(RegionTable regions, pid_t pid, Ending how,
                           std::optional<uint32_t> window, bool look, size_t fillers)
    : target(std::move(regions), pid),
      id(next_id()),
      ending(how),
      fault_around(window),
      verify(look),
      filler_counters(fillers) {}

ServedTarget::ServedTarget(const ServedTarget& forker, Userfaultfd uffd)
    : target(forker.target, std::move(uffd)),
      id(next_id()),
      ending(forker.ending),
      fault_around(forker.fault_around),
      verify(forker.verify),
      living(true),
      handler(forker.handler),
      filler_counters(forker.filler_counters.size()),
      local_memory(local_memory_of(forker)) {}

void add_child(ServedTarget& parent, std::shared_ptr<ServedTarget> child) {
  const std::lock_guard lock(parent.mutex);
  auto& all = parent.children;
  all.push_back(std::move(child));
  if (all.size() <= kEndedChildrenKept) return;
  const auto ended = std::find_if(all.begin(), all.end(),
                                  [](const auto& other) { return other->stage == Stage::ended; });
  if (ended != all.end()) all.erase(ended);
}

std::vector<std::shared_ptr<ServedTarget>> children(const ServedTarget& parent) {
  const std::lock_guard lock(parent.mutex);
  return {parent.children.begin(), parent.children.end()};
}

Stats collect_stats(const ServedTarget& served) {
  Stats stats;
  served.handler_counters.add_to(stats.counts);
  if (served.inline_faults) served.inline_faults->add_to(stats.counts);
  served.ender_counters.add_to(stats.counts);
  served.fetcher_counters.add_to(stats.counts);
  for (const Counters& counters : served.filler_counters) counters.add_to(stats.counts);
  for (size_t i = 0; i < LatencyHistogram::kBuckets; ++i)
    stats.latency[i] = served.latency.count(i);
  return stats;
}

uint64_t count(const ServedTarget& served, Count which) {
  return collect_stats(served).counts[static_cast<size_t>(which)];
}

}  // namespace uffd
