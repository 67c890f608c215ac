#include "engine/target/restored.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "engine/linux/error.hpp"
#include "engine/linux/message.hpp"

namespace uffd {
namespace {

using Kind = PlaceFacts::Kind;

bool has_pages(const Place& place) noexcept {
  return place.size() > 0 && (place.facts.kind == Kind::region || place.facts.kind == Kind::alias);
}

[[noreturn]] void refuse(const Place& place, const std::string& why) {
  throw std::invalid_argument(
      "the ledger is damaged: " + range_text(place.facts.start, place.size()) + ": " + why);
}

void check(const Place& place, uint64_t pages) {
  const PlaceFacts& facts = place.facts;
  if (facts.page_size == 0 || place.size() % facts.page_size != 0)
    refuse(place, "its page size is " + std::to_string(facts.page_size));
  if (facts.kind > Kind::unmap_to_come) refuse(place, "it is of no known kind");
  const uint64_t count = place.size() / facts.page_size;
  if (has_pages(place) && (facts.first_page > pages || count > pages - facts.first_page))
    refuse(place, "its pages are not the target's");
}

uint64_t page_at(const Place& place, uint64_t address) noexcept {
  return place.facts.first_page + (address - place.facts.start) / place.facts.page_size;
}

// Whether the pages of one place lie at another, too.
bool is_noted_at(const Place& place, const Place& other, uint64_t start) noexcept {
  return has_pages(other) && other.facts.kind == place.facts.kind && start >= other.facts.start &&
         start + place.size() <= other.end() && other.facts.page_size == place.facts.page_size &&
         page_at(other, start) == place.facts.first_page;
}

// What lies at the new place goes back to the old one, where a part of it may still be noted.
void undo_move(Ledger& ledger, const RemapEvent& event) {
  for (Ledger::Slot slot = 0; slot < ledger.places().size(); ++slot) {
    Place& place = ledger.places()[slot];
    if (place.facts.kind != Kind::region || place.size() == 0 || place.facts.start < event.to ||
        place.end() > event.to + event.length)
      continue;
    const uint64_t start = event.from + (place.facts.start - event.to);
    const auto is_old = [&](const Place& other) { return is_noted_at(place, other, start); };
    if (std::ranges::any_of(ledger.places(), is_old)) {
      ledger.shorten(slot, 0);
    } else {
      place.facts.start = start;
    }
  }
}

void undo_half_move(Ledger& ledger) {
  const auto messages = ledger.messages();
  const auto first = std::ranges::find_if(messages, [](const uffd_msg& m) { return m.event != 0; });
  if (first == messages.end() || first->event != UFFD_EVENT_REMAP) return;
  if (ledger.phase_of(static_cast<size_t>(first - messages.begin())) != LedgerHeader::moving)
    return;
  undo_move(ledger, std::get<RemapEvent>(decode(*first)));
}

// A region that is split is noted with its second part in it, until it is shortened.
void undo_half_split(Ledger& ledger) {
  const auto places = ledger.places();
  std::vector<Ledger::Slot> slots;
  for (Ledger::Slot slot = 0; slot < places.size(); ++slot) {
    if (has_pages(places[slot])) slots.push_back(slot);
  }
  std::ranges::sort(slots, {}, [&](Ledger::Slot slot) {
    return std::tuple(places[slot].facts.kind, places[slot].facts.start, ~places[slot].size());
  });
  for (size_t i = 1; i < slots.size(); ++i) {
    const Place &whole = places[slots[i - 1]], &part = places[slots[i]];
    if (is_noted_at(part, whole, part.facts.start) && part.end() == whole.end())
      ledger.shorten(slots[i], 0);
  }
}

Region region_of(const Place& place, std::span<const SourcePtr> sources, Ledger::Slot slot) {
  const PlaceFacts& facts = place.facts;
  const bool has_source = facts.source != PlaceFacts::kNoSource;
  if (has_source && facts.source >= sources.size()) {
    throw std::invalid_argument("the target has a source with the number " +
                                std::to_string(facts.source) + ", but only " +
                                std::to_string(sources.size()) + " sources were given");
  }
  Region region({facts.start, place.size()}, has_source ? sources[facts.source] : nullptr,
                facts.source_offset, facts.page_size, facts.modes,
                static_cast<OnRemove>(facts.on_remove));
  region.first_page = facts.first_page;
  region.shared = facts.shared != 0;
  region.source_number = facts.source;
  region.slot = slot;
  return region;
}

}  // namespace

Restored restore(Ledger& ledger, std::span<const SourcePtr> sources) {
  const uint64_t pages = ledger.header().pages;
  for (const Place& place : ledger.places()) {
    if (place.size() > 0) check(place, pages);
  }
  undo_half_move(ledger);
  undo_half_split(ledger);
  std::vector<Region> regions, aliases;
  RangeSet beyond, unmaps_to_come;
  for (Ledger::Slot slot = 0; slot < ledger.places().size(); ++slot) {
    const Place& place = ledger.places()[slot];
    const Range range{place.facts.start, place.size()};
    if (range.length == 0) {
      ledger.forget(slot);  // once, so that it is used again
      continue;
    }
    switch (place.facts.kind) {
      case Kind::region:
        regions.push_back(region_of(place, sources, slot));
        break;
      case Kind::alias:
        aliases.push_back(region_of(place, sources, slot));
        break;
      case Kind::beyond:
        beyond.add(range);
        break;
      case Kind::unmap_to_come:
        unmaps_to_come.add(range);
        break;
    }
  }
  Restored restored{RegionTable(std::move(regions), pages, ledger, Kind::region),
                    RegionTable(std::move(aliases), pages, ledger, Kind::alias), std::move(beyond),
                    std::move(unmaps_to_come)};
  // An alias becomes a region where the region's own place was unmapped: it is noted as both for a
  // moment.
  for (const Region& region : restored.regions.all()) restored.aliases.remove(region.range);
  return restored;
}

}  // namespace uffd
