// Target's pages that could not be supplied: what is noted of them, in this process and in the
// ledger.
#include <new>

#include "engine/target/target.hpp"

namespace uffd {

// The marker is set when somebody touches the page, or at the ending: a removal that is under way
// would take it away again.
uint64_t Target::poison_missing(const Region& region, PageRun run) {
  uint64_t pages = 0;
  for (uint64_t first = residency_.next_missing(run.first, run.end); first < run.end;) {
    const uint64_t end = residency_.next_resident(first, run.end);
    add_poisoned({region.address_of(first), (end - first) * region.page_size});
    residency_.mark(first, end - first);
    pages += end - first;
    first = residency_.next_missing(end, run.end);
  }
  return pages;
}

void Target::add_noted_poison(const Region& region) {
  for (uint64_t first = region.first_page;
       (first = noted_poisoned_->next_inside(first, region.end_page())) < region.end_page();) {
    const uint64_t end = noted_poisoned_->next_outside(first, region.end_page());
    poisoned_.add({region.address_of(first), (end - first) * region.page_size});
    first = end;
  }
}

void Target::note_poison(const Range& range, Poison poison) noexcept {
  if (!noted_poisoned_) return;
  regions_.for_each_in(range, [&](const Region&, PageRun run) {
    if (poison == Poison::set) {
      noted_poisoned_->add(run.first, run.end - run.first);
    } else {
      noted_poisoned_->remove(run.first, run.end - run.first);
    }
  });
}

void Target::poison_without_locks() {
  poisoned_pages_.emplace(residency_.pages());
}

void Target::add_poisoned(const Range& range) noexcept {
  if (poisoned_pages_) {
    if (const Region* region = regions_.find(range.start))
      poisoned_pages_->add(region->page_at(range.start), range.length / region->page_size);
    return;
  }
  note_poison(range, Poison::set);
  const std::lock_guard lock(poisoned_mutex_);
  try {
    poisoned_.add(range);
  } catch (const std::bad_alloc&) {
    poisoned_is_short_ = true;
  }
}

bool Target::is_poisoned(uint64_t address) const {
  if (poisoned_pages_) {
    const Region* region = regions_.find(address);
    return region && poisoned_pages_->contains(region->page_at(address));
  }
  const std::lock_guard lock(poisoned_mutex_);
  return poisoned_is_short_ || poisoned_.contains(address);
}

std::vector<Range> Target::poisoned() const {
  if (poisoned_pages_) {
    RangeSet ranges;
    for (const Region& region : regions_.all()) {
      for (uint64_t first = region.first_page;
           (first = poisoned_pages_->next_inside(first, region.end_page())) < region.end_page();) {
        const uint64_t end = poisoned_pages_->next_outside(first, region.end_page());
        ranges.add({region.address_of(first), (end - first) * region.page_size});
        first = end;
      }
    }
    return ranges.all();
  }
  const std::lock_guard lock(poisoned_mutex_);
  return poisoned_.all();
}

}  // namespace uffd
