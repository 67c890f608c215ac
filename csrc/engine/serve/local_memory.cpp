#include "engine/serve/local_memory.hpp"

#include <pthread.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <stdexcept>

#include "engine/linux/error.hpp"

namespace uffd {
namespace {

struct Use {
  std::vector<Range> managed;  // sorted by start
  std::vector<Range> sources;
};

struct Registry {
  std::mutex mutex;
  std::map<uint64_t, Use> uses;
  uint64_t last_id = 0;
};

Registry& registry();

// A fork child inherits no managed memory, so other memory of it may come to lie at those
// addresses.
void forget_in_child() {
  registry().uses.clear();
  registry().mutex.unlock();
}

Registry& registry() {
  // Never destroyed: a target may end, and a fork may come, as late as exit.
  static Registry& instance = *[] {
    ::pthread_atfork([] { registry().mutex.lock(); }, [] { registry().mutex.unlock(); },
                     forget_in_child);
    return new Registry;
  }();
  return instance;
}

void refuse_overlap(const std::vector<Range>& managed, const std::vector<Range>& sources) {
  for (const Range& source : sources) {
    const auto first =
        std::partition_point(managed.begin(), managed.end(),
                             [&](const Range& range) { return range.end() <= source.start; });
    if (first == managed.end() || !first->overlaps(source)) continue;
    throw std::invalid_argument(
        "the source at " + range_text(source.start, source.length) +
        " lies in managed memory (region " + range_text(first->start, first->length) +
        "): a page of it would be needed to install itself; copy the source elsewhere");
  }
}

std::vector<Range> source_ranges(const RegionTable& regions) {
  std::vector<Range> ranges;
  const Source* previous = nullptr;
  for (const Region& region : regions.all()) {
    const Range range = region.source ? region.source->memory() : Range{};
    if (range.length > 0 && region.source.get() != previous) ranges.push_back(range);
    previous = region.source.get();
  }
  return ranges;
}

}  // namespace

LocalMemory::LocalMemory(const RegionTable& regions, bool this_process) {
  Use use{this_process ? regions.ranges() : std::vector<Range>{}, source_ranges(regions)};
  const std::lock_guard lock(registry().mutex);
  refuse_overlap(use.managed, use.sources);
  for (const auto& [id, other] : registry().uses) {
    refuse_overlap(other.managed, use.sources);
    refuse_overlap(use.managed, other.sources);
  }
  id_ = ++registry().last_id;
  registry().uses.emplace(id_, std::move(use));
}

void LocalMemory::forget() noexcept {
  if (id_ == 0) return;
  const std::lock_guard lock(registry().mutex);
  registry().uses.erase(std::exchange(id_, 0));
}

}  // namespace uffd
