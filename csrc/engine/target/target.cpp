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
#include "engine/linux/wake_everything.hpp"

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

bool tracks_writes(const RegionTable& regions) {
  return std::ranges::any_of(regions.all(), &Region::write_protected);
}

std::optional<PageSet> written_pages(const RegionTable& regions, Ledger* ledger) {
  if (!tracks_writes(regions)) return std::nullopt;
  if (ledger) return std::optional<PageSet>(std::in_place, regions.pages(), ledger->written());
  return std::optional<PageSet>(std::in_place, regions.pages());
}

std::unique_ptr<Ledger> make_ledger(uint64_t id, uint64_t parent, pid_t pid,
                                    const RegionTable& regions, Target::Noted noted) {
  if (noted == Target::Noted::no) return nullptr;
  return std::make_unique<Ledger>(Ledger::Facts{.target = id,
                                                .parent = parent,
                                                .pid = pid,
                                                .pages = regions.pages(),
                                                .regions = regions.size(),
                                                .tracks_writes = tracks_writes(regions)});
}

}  // namespace

Target::Target(RegionTable regions, pid_t pid, Noted noted)
    : ledger_(make_ledger(id_, 0, pid, regions, noted)),
      regions_(std::move(regions)),
      residency_(ledger_ ? Residency(regions_.pages(), ledger_->settled())
                         : Residency(regions_.pages())),
      written_(written_pages(regions_, ledger_.get())),
      pid_(pid),
      page_sizes_(sizes_of_pages(regions_)),
      page_size_(regions_.empty() ? sys::page_size() : regions_.all().front().page_size),
      first_address_(regions_.empty() ? kSomeAddress : regions_.all().front().range.start),
      has_regions_(!regions_.empty()),
      moves_(std::make_shared<MoveLog>()) {
  map_blanks();
  begin_ledger();
}

Target::Target(const Target& parent, Userfaultfd uffd, Noted noted)
    : uffd_(std::move(uffd)),
      ledger_(make_ledger(id_, parent.id_, kUnknownPid, parent.regions_, noted)),
      regions_(parent.regions_),
      residency_(ledger_ ? Residency(parent.regions_.pages(), ledger_->settled())
                         : Residency(parent.regions_.pages())),
      written_(written_pages(regions_, ledger_.get())),
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
  residency_.assign(parent.residency_);
  if (written_) written_->assign(*parent.written_);
  begin_ledger();
  const std::lock_guard lock(parent.poisoned_mutex_);
  poisoned_ = parent.poisoned_;
  poisoned_is_short_ = parent.poisoned_is_short_;
  for (const Range& range : poisoned_.all()) note_poison(range, Poison::set);
}

Target::Target(std::unique_ptr<Ledger> ledger, Restored restored)
    : ledger_(std::move(ledger)),
      regions_(std::move(restored.regions)),
      residency_(regions_.pages(), ledger_->settled(), Residency::AsNoted()),
      noted_poisoned_(std::in_place, regions_.pages(), ledger_->poisoned()),
      written_(written_pages(regions_, ledger_.get())),
      pid_(ledger_->header().pid),
      page_sizes_(sizes_of_pages(regions_)),
      page_size_(regions_.empty() ? sys::page_size() : regions_.all().front().page_size),
      first_address_(regions_.empty() ? kSomeAddress : regions_.all().front().range.start),
      registered_(ledger_->header().registered != 0),
      has_regions_(!regions_.empty()),
      lost_track_(ledger_->header().incomplete != 0),
      beyond_(std::move(restored.beyond)),
      aliases_(std::move(restored.aliases)),
      unmaps_to_come_(std::move(restored.unmaps_to_come)),
      moves_(std::make_shared<MoveLog>()) {
  map_blanks();
  ledger_->header().target = id_;
  for (const Region& region : regions_.all()) add_noted_poison(region);
  if (lost_track_) regions_.clear();
}

void Target::begin_ledger() {
  if (!ledger_) return;
  noted_poisoned_.emplace(residency_.pages(), ledger_->poisoned());
  regions_.note_in(*ledger_, PlaceFacts::Kind::region);
  aliases_.note_in(*ledger_, PlaceFacts::Kind::alias);
  ledger_->set_registered(registered());
  if (lost_track_ || forgot_aliases_) ledger_->set_incomplete();
  ledger_->replace(PlaceFacts::Kind::beyond, beyond_.all());
}

void Target::set_registered_beyond(RangeSet ranges) {
  beyond_ = std::move(ranges);
  if (ledger_) ledger_->replace(PlaceFacts::Kind::beyond, beyond_.all());
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
    note_poison(region.range.intersection(range), Poison::cleared);
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

void Target::unmapped(const Range& range) {
  for (const Range& part : unmaps_to_come_.outside(range)) forget(part);
  unmaps_to_come_.remove(range);
  note_unmaps_to_come();
}

void Target::note_unmaps_to_come() noexcept {
  if (ledger_) ledger_->replace(PlaceFacts::Kind::unmap_to_come, unmaps_to_come_.all());
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
    note_unmaps_to_come();
  }
  forget(there);
  if (ledger_) ledger_->reach(LedgerHeader::moving);
  regions_.move(from, to);
  beyond_.move(from, to);
  if (ledger_) ledger_->replace(PlaceFacts::Kind::beyond, beyond_.all());
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
    if (ledger_) ledger_->set_incomplete();
    aliases_.clear();
    forgot_aliases_ = true;
  }
  if (ledger_) ledger_->reach(LedgerHeader::moved);
  const std::lock_guard lock(poisoned_mutex_);
  poisoned_.move(from, to);
}

void Target::lose_track() noexcept {
  lost_track_ = true;
  if (ledger_) ledger_->set_incomplete();
  regions_.clear();
  aliases_.clear();
}

void Target::let_go_of_what_regions_hold() noexcept {
  if (ledger_) ledger_->close();
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
  if (ledger_) ledger_->replace(PlaceFacts::Kind::beyond, beyond_.all());
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

void wake_all(const Target& target) noexcept {
  sys::wake_everything(target.uffd().fd());
}

int unregister_and_wake(const Userfaultfd& uffd, const Range& range) noexcept {
  const int result = uffd.unregister(range.start, range.length);
  uffd.wake(range.start, range.length);
  return result;
}

}  // namespace uffd
