#include "engine/target/target.hpp"

#include <algorithm>
#include <atomic>
#include <new>
#include <stdexcept>
#include <string>

#include "engine/linux/blank.hpp"
#include "engine/linux/mapping.hpp"
#include "engine/linux/maps.hpp"
#include "engine/linux/smaps.hpp"

namespace uffd {
namespace {

// An address that a process may map (vm.mmap_min_addr): a COPY to it asks whether the process
// lives.
constexpr uint64_t kSomeAddress = 1 << 30;

// What a target without regions maps is not known: hugetlb memory, perhaps.
uint64_t sizes_of_pages(const RegionTable& regions) {
  uint64_t sizes = sys::page_size() | (regions.empty() ? hugetlb_page_size() : 0);
  for (const Region& region : regions.all()) sizes |= region.page_size;
  return sizes;
}

std::optional<PageSet> written_pages(const RegionTable& regions) {
  for (const Region& region : regions.all()) {
    if (region.write_protected()) return PageSet(regions.pages());
  }
  return std::nullopt;
}

}  // namespace

Target::Target(RegionTable regions, pid_t pid)
    : regions_(std::move(regions)),
      residency_(regions_.pages()),
      written_(written_pages(regions_)),
      pid_(pid),
      page_sizes_(sizes_of_pages(regions_)),
      page_size_(regions_.empty() ? sys::page_size() : regions_.all().front().page_size),
      first_address_(regions_.empty() ? kSomeAddress : regions_.all().front().range.start),
      has_regions_(!regions_.empty()),
      moves_(std::make_shared<MoveLog>()) {
  map_blanks();
}

Target::Target(const Target& parent, Userfaultfd uffd)
    : uffd_(std::move(uffd)),
      regions_(parent.regions_),
      residency_(parent.residency_),
      written_(parent.written_),
      pid_(kUnknownPid),
      page_sizes_(parent.page_sizes_),
      page_size_(parent.page_size_),
      first_address_(parent.first_address_),
      registered_(parent.registered()),
      has_regions_(parent.has_regions_),
      reads_beyond_(parent.reads_beyond_),
      lost_track_(parent.lost_track_),
      forgot_aliases_(parent.forgot_aliases_),
      beyond_(parent.beyond_),
      aliases_(parent.aliases_),
      vacated_(parent.vacated_),
      moves_(std::make_shared<MoveLog>()),
      parents_moves_(parent.moves_),
      parents_moves_known_(parent.moves_->moves()) {
  const std::lock_guard lock(parent.poisoned_mutex_);
  poisoned_ = parent.poisoned_;
  poisoned_is_short_ = parent.poisoned_is_short_;
}

uint64_t Target::next_id() noexcept {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

bool Target::address_space_gone() const noexcept {
  // ESRCH comes first, whether memory is registered there or not.
  return uffd_.copy(first_address_, unreadable_address(), page_size_, 0).error == -ESRCH;
}

bool Target::is_changing() const noexcept {
  return uffd_.copy(first_address_, unreadable_address(), page_size_, 0).error == -EAGAIN;
}

bool Target::catch_up(uint64_t address) {
  if (!parents_moves_) return false;
  const auto path = parents_moves_->path_to(address, parents_moves_known_, [this](uint64_t from) {
    return regions_.find(from) != nullptr;
  });
  if (path.empty()) return false;
  // A move after the fork brought nothing here. It is told from one before the fork by its origin,
  // which lies where it was, if something else explains what lies at the address.
  uint64_t origin = address;
  for (auto move = path.rbegin(); move != path.rend(); ++move)
    origin = move->from.start + (origin - move->to);
  const Range there{origin, regions_.find(origin)->page_size};
  if (vacated_.contains(address) || is_one_mapping_with_neighbour(address) == -EFAULT) {
    const int error = is_one_mapping(there);
    if (error == -EFAULT) return false;
    if (error == -EAGAIN) return true;
  }
  for (const Move& move : path) moved(move.from, move.to);
  // They explain one fork, once.
  parents_moves_known_ = parents_moves_->moves();
  return true;
}

uint64_t Target::removed(const Range& range) {
  uint64_t poisoned = 0;
  regions_.for_each_in(range, [&](const Region& region, PageRun run) {
    if (region.on_remove == OnRemove::keep) return;
    if (region.on_remove == OnRemove::poison && !region.image()) {
      poisoned += poison_missing(region, run);
      return;
    }
    {
      const std::lock_guard lock(poisoned_mutex_);
      poisoned_.remove(region.range.intersection(range));
    }
    // In memory of an image such a page has the image's bytes again: what was missing is missing
    // still.
    if (!region.image()) residency_.mark(run.first, run.end - run.first);
    if (written_) written_->add(run.first, run.end - run.first);  // with zeros, or those bytes
  });
  return poisoned;
}

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

void Target::unmapped(const Range& range) {
  for (const Range& part : unmaps_to_come_.outside(range)) forget(part);
  unmaps_to_come_.remove(range);
}

void Target::moved(const Range& from, uint64_t to) {
  if (from.length == 0) return add_alias(from.start, to);
  const Range there{to, from.length};
  moves_->add({from, to});
  if (tells_of_unmaps()) {
    regions_.for_each_in(there, [&](const Region& region, PageRun) {
      unmaps_to_come_.add(region.range.intersection(there));
    });
    for (const Range& part : vacated_.within(there)) unmaps_to_come_.add(part);
  }
  forget(there);
  regions_.move(from, to);
  beyond_.move(from, to);
  copy_aliases(from, to);
  if (tells_of_unmaps()) vacated_.add(from);
  // MREMAP_DONTUNMAP may have left the old place mapped: private memory is zeros there, shared
  // memory has the same pages at both places.
  regions_.for_each_in(there, [&](const Region& region, PageRun) {
    if (region.shared) aliases_.add_copy(region, there, from.start);
  });
  if (aliases_.size() > most_aliases()) {
    // Most aliases have been unmapped, and no event tells of that. An alias that is left is
    // poisoned when it is touched.
    aliases_.clear();
    forgot_aliases_ = true;
  }
  const std::lock_guard lock(poisoned_mutex_);
  poisoned_.move(from, to);
}

void Target::lose_track() noexcept {
  lost_track_ = true;
  regions_.clear();
  aliases_.clear();
}

void Target::let_go_of_what_regions_hold() noexcept {
  for (RegionTable* table : {&regions_, &aliases_}) {
    table->for_each([](Region& region) {
      region.source = nullptr;
      region.memory = nullptr;
    });
  }
}

// Aliases that move also stay where they were, unless an UNMAP event says otherwise.
void Target::copy_aliases(const Range& from, uint64_t to) {
  std::vector<Region> moved;
  aliases_.for_each_in(from, [&](const Region& alias, PageRun) { moved.push_back(alias); });
  for (const Region& alias : moved) aliases_.add_copy(alias, from, to);
}

// mremap with an old length of 0 maps shared memory once more, and the event does not tell how much
// of it.
void Target::add_alias(uint64_t from, uint64_t to) {
  const Region* region = regions_.find(from);
  if (!region) region = aliases_.find(from);
  if (!region || !region->shared) return;
  const Range rest{from, region->range.end() - from};
  forget({to, rest.length});
  aliases_.add_copy(*region, rest, to);
}

std::optional<uint64_t> Target::aliased_page(uint64_t address) const {
  const Region* alias = aliases_.find(address);
  if (!alias) return std::nullopt;
  return alias->page_at(address);
}

void Target::forget(const Range& range) {
  aliases_.remove(range);
  std::vector<PageRun> runs;
  regions_.for_each_in(range, [&](const Region&, PageRun run) { runs.push_back(run); });
  regions_.remove(range);
  for (const PageRun& run : runs) settle_unless_elsewhere(run);
  beyond_.remove(range);
  vacated_.remove(range);
  const std::lock_guard lock(poisoned_mutex_);
  poisoned_.remove(range);
}

// For pages that were unmapped at their place: a shared page that is also mapped at an alias lives
// there from now on; any other page is settled.
void Target::settle_unless_elsewhere(PageRun run) {
  for (const Region& alias : std::vector<Region>(aliases_.all().begin(), aliases_.all().end())) {
    const uint64_t first = std::max(run.first, alias.first_page);
    const uint64_t end = std::min(run.end, alias.end_page());
    if (first >= end) continue;
    const Range place{alias.address_of(first), (end - first) * alias.page_size};
    regions_.add_copy(alias, place, place.start);
    aliases_.remove(place);
    if (run.first < first) settle_unless_elsewhere({run.first, first});
    if (end < run.end) settle_unless_elsewhere({end, run.end});
    return;
  }
  residency_.mark(run.first, run.end - run.first);
}

bool Target::is_blank(uint64_t address) const {
  if (lost_track_ || forgot_aliases_) return false;
  if (reads_beyond_ == Beyond::zero) return true;
  return living() && has_regions_ && !beyond_.contains(address);
}

bool Target::must_have_grown(uint64_t address) const {
  return reads_beyond_ == Beyond::poison && !vacated_.contains(address);
}

int Target::is_one_mapping(const Range& range) const noexcept {
  const int error = uffd_.copy(range.start, unreadable_address(), range.length, 0).error;
  return error == -EEXIST ? -EFAULT : error;
}

int Target::is_one_mapping_with_neighbour(uint64_t address) const noexcept {
  const auto with = [&](uint64_t neighbour, uint64_t page_size) {
    const uint64_t page = address & ~(page_size - 1);
    const uint64_t start = std::min(neighbour, page);
    return is_one_mapping({start, std::max(neighbour, page) + page_size - start});
  };
  int error = -ENOENT;
  if (const Region* below = regions_.find_below(address))
    error = with(below->range.end() - below->page_size, below->page_size);
  if (error != -ENOENT && error != -EINVAL) return error;
  const Region* const above = regions_.find_above(address);
  return above ? with(above->range.start, above->page_size) : -ENOENT;
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

void wake_all(const Target& target) noexcept {
  for (const RegionTable* table : {&target.regions(), &target.aliases()}) {
    if (table->empty()) continue;
    const auto all = table->all();
    const uint64_t start = all.front().range.start;
    target.uffd().wake(start, all.back().range.end() - start);
  }
}

int unregister_and_wake(const Userfaultfd& uffd, const Range& range) noexcept {
  const int result = uffd.unregister(range.start, range.length);
  uffd.wake(range.start, range.length);
  return result;
}

}  // namespace uffd
