#include "engine/guard/ledger.hpp"

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <new>
#include <stdexcept>

#include "engine/linux/error.hpp"

namespace uffd {
namespace {

// Room for what events split and add: more than a process can have mappings (vm.max_map_count).
// Slots that are not used take address space alone, which a manager of many fork children may lack.
constexpr uint64_t kSparePlaces = 65536, kSpareOfChild = 4096;

uint64_t spare_places(const Ledger::Facts& facts) {
  return std::min(facts.parent == 0 ? kSparePlaces : kSpareOfChild, facts.pages);
}

uint64_t whole_pages(uint64_t bytes) {
  return (bytes + sys::page_size() - 1) & ~(sys::page_size() - 1);
}

}  // namespace

Ledger::Ledger(const Facts& facts)
    : memory_(or_throw(::memfd_create("pyuffd-ledger", MFD_CLOEXEC),
                       "memfd_create of the guard's ledger")) {
  const uint64_t places = 2 * facts.regions + spare_places(facts);
  const uint64_t places_at = whole_pages(sizeof(LedgerHeader));
  const uint64_t settled_at = places_at + whole_pages(places * sizeof(Place));
  const uint64_t set = whole_pages((facts.pages / 64 + 1) * sizeof(uint64_t));
  const uint64_t length = settled_at + (facts.tracks_writes ? 3 : 2) * set;
  or_throw(::ftruncate(memory_.get(), static_cast<off_t>(length)), "ftruncate of the ledger");
  map(length);
  header_ = new (bytes_) LedgerHeader;
  header_->pid = facts.pid;
  header_->target = facts.target;
  header_->parent = facts.parent;
  header_->length = length;
  header_->pages = facts.pages;
  header_->places_at = places_at;
  header_->settled_at = settled_at;
  header_->poisoned_at = settled_at + set;
  header_->written_at = facts.tracks_writes ? settled_at + 2 * set : 0;
  header_->places = places;
  places_ = reinterpret_cast<Place*>(bytes_ + places_at);
}

Ledger::Ledger(Fd memory) : memory_(std::move(memory)) {
  struct stat status{};
  or_throw(::fstat(memory_.get(), &status), "fstat of the ledger");
  const auto length = static_cast<uint64_t>(status.st_size);
  if (length < sizeof(LedgerHeader))
    throw std::invalid_argument("the ledger has only " + std::to_string(length) +
                                " bytes: it is not of pyuffd");
  map(length);
  header_ = reinterpret_cast<LedgerHeader*>(bytes_);
  if (!is_sound(*header_, length) || header_->used_places > header_->places) {
    const bool is_ours = header_->magic == LedgerHeader::kMagic;
    const uint32_t version = header_->version;
    ::munmap(bytes_, length);
    throw std::invalid_argument(!is_ours ? "the ledger is not of pyuffd"
                                : version != LedgerHeader::kVersion
                                    ? "the ledger has version " + std::to_string(version) +
                                          ", and this pyuffd knows " +
                                          std::to_string(LedgerHeader::kVersion) +
                                          ": take over with the pyuffd that wrote it"
                                    : "the ledger is damaged: its header does not fit its " +
                                          std::to_string(length) + " bytes");
  }
  places_ = reinterpret_cast<Place*>(bytes_ + header_->places_at);
}

void Ledger::map(uint64_t length) {
  void* const mapped =
      ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, memory_.get(), 0);
  if (mapped == MAP_FAILED) throw SystemError(errno, "mmap of the ledger");
  bytes_ = static_cast<std::byte*>(mapped);
}

Ledger::~Ledger() {
  ::munmap(bytes_, header_->length);
}

void Ledger::reach(LedgerHeader::Phase phase) noexcept {
  const uint32_t now = header_->applying.load(std::memory_order_relaxed);
  if (now != LedgerHeader::kNothing)
    header_->applying.store(now / 4 * 4 + phase, std::memory_order_release);
}

void Ledger::clear(size_t message) noexcept {
  // The event is what tells that there is a message.
  std::atomic_ref(header_->messages[message].event).store(0, std::memory_order_release);
}

LedgerHeader::Phase Ledger::phase_of(size_t message) const noexcept {
  const uint32_t applying = header_->applying;
  if (applying == LedgerHeader::kNothing || applying / 4 != message) return LedgerHeader::begun;
  return static_cast<LedgerHeader::Phase>(applying % 4);
}

Ledger::Slot Ledger::note(const PlaceFacts& facts, uint64_t length) noexcept {
  Slot slot = kNone;
  if (!free_.empty()) {
    slot = free_.back();
    free_.pop_back();
  } else if (const uint64_t used = header_->used_places.load(std::memory_order_relaxed);
             used < header_->places) {
    slot = static_cast<Slot>(used);
    header_->used_places.store(used + 1, std::memory_order_release);
  } else {
    set_incomplete();
    return kNone;
  }
  places_[slot].facts = facts;
  places_[slot].length.store(length, std::memory_order_release);
  return slot;
}

void Ledger::amend(Slot slot, const PlaceFacts& facts) noexcept {
  if (slot != kNone) places_[slot].facts = facts;
}

void Ledger::shorten(Slot slot, uint64_t length) noexcept {
  if (slot != kNone) places_[slot].length.store(length, std::memory_order_release);
}

void Ledger::forget(Slot slot) noexcept {
  if (slot == kNone) return;
  shorten(slot, 0);
  try {
    free_.push_back(slot);
  } catch (const std::bad_alloc&) {
    // The slot is not used again.
  }
}

void Ledger::replace(PlaceFacts::Kind kind, std::span<const Range> ranges) noexcept {
  const auto is = [kind](const Place& place, const Range& range) {
    return place.facts.kind == kind && place.facts.start == range.start &&
           place.size() == range.length;
  };
  for (const Range& range : ranges) {
    if (std::ranges::none_of(places(), [&](const Place& place) { return is(place, range); }))
      note({.start = range.start, .page_size = sys::page_size(), .kind = kind}, range.length);
  }
  for (Slot slot = 0; slot < places().size(); ++slot) {
    const Place& place = places_[slot];
    if (place.size() == 0 || place.facts.kind != kind) continue;
    if (std::ranges::none_of(ranges, [&](const Range& range) { return is(place, range); }))
      forget(slot);
  }
}

}  // namespace uffd
