#include "engine/serve/served/local_memory.hpp"

#include <algorithm>
#include <map>
#include <mutex>
#include <stdexcept>

#include "engine/linux/at_fork.hpp"
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

  AtFork at_fork{AtFork::Level::local_memory,
                 this,
                 {.prepare = [](void* self) noexcept { of(self).mutex.lock(); },
                  .in_parent = [](void* self) noexcept { of(self).mutex.unlock(); },
                  .in_child = [](void* self) noexcept { of(self).forget_in_child(); }}};

  static Registry& of(void* self) noexcept { return *static_cast<Registry*>(self); }
  // A fork child has none of the managed memory, so its own memory may come to lie at those
  // addresses.
  void forget_in_child() noexcept {
    uses.clear();
    mutex.unlock();
  }
};

// Made when the library is loaded and never destroyed: a target may end, and a fork may come, as
// late as exit.
Registry& registry = *new Registry;

void refuse_overlap(const std::vector<Range>& managed, const std::vector<Range>& sources) {
  for (const Range& source : sources) {
    const auto first =
        std::partition_point(managed.begin(), managed.end(),
                             [&](const Range& range) { return range.end() <= source.start; });
    if (first == managed.end() || !first->overlaps(source)) continue;
    throw std::invalid_argument(
        "the source at " + range_text(source.start, source.length) +
        " lies in managed memory (region " + range_text(first->start, first->length) +
        "): a page would be needed to install itself. Copy the source to other memory");
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
  const std::lock_guard lock(registry.mutex);
  refuse_overlap(use.managed, use.sources);
  for (const auto& [id, other] : registry.uses) {
    refuse_overlap(other.managed, use.sources);
    refuse_overlap(use.managed, other.sources);
  }
  id_ = ++registry.last_id;
  registry.uses.emplace(id_, std::move(use));
}

void LocalMemory::forget() noexcept {
  if (id_ == 0) return;
  const std::lock_guard lock(registry.mutex);
  registry.uses.erase(std::exchange(id_, 0));
}

}  // namespace uffd
