// The ledger, and what the guard makes of it when a manager is killed at a given instruction.
#include <optional>
#include <set>

#include "doomed_manager.hpp"
#include "engine/guard/ledger.hpp"
#include "engine/target/restored.hpp"

namespace uffd::test {
namespace {

TEST_SUITE_BEGIN("guard");

// Whether each page is right, or poisoned: never zero. Waits for pages that are missing.
struct Pages {
  uint64_t right = 0, poisoned = 0, wrong = 0;
};

Pages look_at(const Memory& memory) {
  Pages pages;
  for (uint64_t i = 0; i < memory.memory.length() / page(); ++i) {
    if (!readable(memory.at(i))) {
      ++pages.poisoned;
    } else if (memory.right(i)) {
      ++pages.right;
    } else {
      ++pages.wrong;
    }
  }
  return pages;
}

constexpr uint64_t kPages = 512;

TEST_CASE("a manager that is killed after it has read a fault") {
  if (!kernel_poisons()) return;
  for (const Moment moment : {Moment::before_install, Moment::after_install}) {
    const Memory memory(kPages);
    DoomedManager manager(memory, moment);
    manager.await_serving();
    // A kernel access, which fails where the page is poisoned.
    std::optional<bool> is_readable;
    std::thread toucher([&] { is_readable = readable(memory.at(7)); });
    manager.await_parked();
    manager.kill();
    toucher.join();
    const Pages pages = look_at(memory);
    CHECK(pages.wrong == 0);
    CHECK(pages.right == (moment == Moment::after_install ? 1 : 0));
    CHECK(*is_readable == (moment == Moment::after_install));
  }
}

TEST_CASE("a manager that is killed in a fill") {
  if (!kernel_poisons()) return;
  const Memory memory(kPages);
  DoomedManager manager(memory, Moment::in_fill);
  manager.await_serving();
  manager.await_parked();
  manager.kill();
  const Pages pages = look_at(memory);
  CHECK(pages.wrong == 0);
  CHECK(pages.right > 0);
  CHECK(pages.poisoned > 0);
}

TEST_CASE("a manager that is killed in an ending") {
  const Memory memory(kPages);
  DoomedManager manager(memory, Moment::in_ending);
  manager.await_serving();
  manager.await_parked();
  manager.kill();
  CHECK(look_at(memory).right == kPages);
}

// What a guard would find in a ledger.
std::vector<Range> places_in(const Ledger& ledger) {
  std::vector<Range> found;
  for (const Place& place : ledger.places()) {
    if (place.size() > 0 && place.facts.kind == PlaceFacts::Kind::region)
      found.push_back({place.facts.start, place.size()});
  }
  std::ranges::sort(found, {}, &Range::start);
  return found;
}

TEST_CASE("the ledger follows the regions") {
  const Memory memory(16);
  Target target(RegionTable({memory.region()}), 0, Target::Noted::in_ledger);
  Ledger& ledger = *target.ledger();
  const uint64_t start = memory.at(0);
  const auto is = [](const std::vector<Range>& found, std::vector<Range> expected) {
    return std::ranges::equal(found, expected, [](const Range& a, const Range& b) {
      return a.start == b.start && a.length == b.length;
    });
  };
  CHECK(is(places_in(ledger), {{start, 16 * page()}}));
  const uint64_t there = start + (uint64_t{1} << 32);
  target.moved({start + 4 * page(), 4 * page()}, there);
  CHECK(is(places_in(ledger),
           {{start, 4 * page()}, {start + 8 * page(), 8 * page()}, {there, 4 * page()}}));
  target.unmapped({start + 2 * page(), 8 * page()});
  CHECK(is(places_in(ledger),
           {{start, 2 * page()}, {start + 10 * page(), 6 * page()}, {there, 4 * page()}}));
}

struct Left {
  explicit Left(const Memory& memory)
      : target(RegionTable({memory.region()}), 0, Target::Noted::in_ledger), memory_(memory) {}

  Ledger& ledger() { return *target.ledger(); }
  // What the next manager makes of it.
  Target restored() {
    auto next = std::make_unique<Ledger>(Fd(::fcntl(ledger().fd(), F_DUPFD_CLOEXEC, 3)));
    const std::vector<SourcePtr> sources{memory_.source()};
    Restored found = restore(*next, sources);
    return Target(std::move(next), std::move(found));
  }
  void leave_message(size_t number, uint64_t from, uint64_t to, uint64_t length) {
    uffd_msg& message = ledger().messages()[number];
    message.arg.remap.from = from;
    message.arg.remap.to = to;
    message.arg.remap.len = length;
    message.event = UFFD_EVENT_REMAP;
  }

  Target target;

 private:
  const Memory& memory_;
};

TEST_CASE("a target is restored as it was") {
  const Memory memory(64);
  Left left(memory);
  const uint64_t start = memory.at(0), there = start + (uint64_t{1} << 32);
  left.target.residency().mark(3, 5);
  left.target.moved({start + 8 * page(), 8 * page()}, there);
  left.target.unmapped({start + 20 * page(), 2 * page()});
  left.target.add_poisoned({start + 30 * page(), page()});
  left.target.residency().mark(30, 1);
  left.target.set_registered(false);
  const Target restored = left.restored();
  CHECK(restored.residency().missing() == 64 - 5 - 2 - 1);
  CHECK_FALSE(restored.registered());
  CHECK(restored.is_poisoned(start + 30 * page()));
  CHECK_FALSE(restored.is_poisoned(start + 31 * page()));
  const Region* const moved = restored.regions().find(there + page());
  REQUIRE(moved);
  CHECK(moved->page_at(there + page()) == 9);
  CHECK(moved->offset_of(9) == 9 * page());
  CHECK_FALSE(restored.regions().find(start + 8 * page()));
  CHECK_FALSE(restored.regions().find(start + 20 * page()));
  CHECK(restored.regions().pages() == 64);
}

TEST_CASE("a move that was half noted is undone, and done again") {
  const Memory memory(64);
  const uint64_t start = memory.at(0), there = start + (uint64_t{1} << 32);
  for (const size_t forgotten : {0, 1, 2}) {
    Left left(memory);
    // Two regions move, so that there are two places to note and to forget.
    left.target.regions().remove({start + 16 * page(), page()});
    Ledger& ledger = left.ledger();
    std::vector<Ledger::Slot> old;
    for (const Region& region : left.target.regions().all()) old.push_back(region.slot);
    REQUIRE(old.size() == 2);
    left.leave_message(0, start, there, 64 * page());
    ledger.begin(0);
    ledger.reach(LedgerHeader::moving);
    ledger.note({.start = there, .page_size = page(), .first_page = 0}, 16 * page());
    ledger.note({.start = there + 17 * page(),
                 .page_size = page(),
                 .first_page = 17,
                 .source_offset = 17 * page()},
                47 * page());
    for (const Ledger::Slot slot : std::span(old).first(forgotten)) ledger.forget(slot);
    Target restored = left.restored();
    for (const uint64_t number : {0, 15, 17, 31, 63}) {
      CAPTURE(forgotten);
      const Region* const region = restored.regions().find(start + number * page());
      REQUIRE(region);
      CHECK(region->page_at(start + number * page()) == number);
    }
    CHECK_FALSE(restored.regions().find(there));
    // No slot is given twice.
    std::set<Ledger::Slot> slots;
    for (const Region& region : restored.regions().all()) slots.insert(region.slot);
    for (uint64_t i = 0; i < 8; ++i)
      slots.insert(restored.ledger()->note({.page_size = page()}, page()));
    CHECK(slots.size() == restored.regions().size() + 8);
  }
}

TEST_CASE("a split that was half noted is undone") {
  const Memory memory(64);
  Left left(memory);
  const uint64_t start = memory.at(0);
  left.ledger().note({.start = start + 10 * page(),
                      .page_size = page(),
                      .first_page = 10,
                      .source_offset = 10 * page()},
                     54 * page());
  const Target restored = left.restored();
  CHECK(restored.regions().size() == 1);
  CHECK(restored.regions().find(start + 63 * page()));
}

TEST_CASE("a ledger that is damaged is refused") {
  const Memory memory(16);
  const auto refused = [&](const std::function<void(Ledger&)>& damage, const char* why) {
    Left left(memory);
    damage(left.ledger());
    CHECK_THROWS_WITH_AS(left.restored(), doctest::Contains(why), std::invalid_argument);
  };
  refused([](Ledger& ledger) { ledger.header().magic = 1; }, "is not of pyuffd");
  refused([](Ledger& ledger) { ledger.header().version = 9; }, "has version 9");
  refused([](Ledger& ledger) { ledger.header().places = uint64_t{1} << 60; }, "is damaged");
  refused([](Ledger& ledger) { ledger.header().used_places = uint64_t{1} << 60; }, "is damaged");
  refused([](Ledger& ledger) { ledger.header().pages = uint64_t{1} << 60; }, "is damaged");
  refused([](Ledger& ledger) { ledger.header().settled_at = UINT64_MAX - 7; }, "is damaged");
  refused([](Ledger& ledger) { ledger.header().length = 5; }, "is damaged");
  refused([](Ledger& ledger) { ledger.places()[0].facts.page_size = 0; }, "page size is 0");
  refused([](Ledger& ledger) { ledger.places()[0].facts.first_page = 1; }, "not the target's");
  refused([](Ledger& ledger) { ledger.places()[0].facts.source = 1; }, "only 1 sources");
  refused([](Ledger& ledger) { ledger.places()[0].facts.start += 1; }, "multiples of page_size");
  refused([](Ledger& ledger) { ledger.places()[0].facts.kind = static_cast<PlaceFacts::Kind>(9); },
          "no known kind");
  refused(
      [&](Ledger& ledger) {
        ledger.note({.start = memory.at(4), .page_size = page(), .first_page = 1}, page());
      },
      "overlap");
  Fd empty(::memfd_create("empty", MFD_CLOEXEC));
  CHECK_THROWS_WITH_AS(Ledger(std::move(empty)), doctest::Contains("only 0 bytes"),
                       std::invalid_argument);
}

TEST_CASE("a ledger that is full is incomplete, and says so") {
  Ledger ledger({.target = 1, .pid = 0, .pages = 100'000, .regions = 1});
  Ledger::Slot slot = 0;
  uint64_t noted = 0;
  while (slot != Ledger::kNone)
    slot = ledger.note({.start = page() * ++noted, .page_size = page()}, page());
  CHECK(noted > 65536);
}

TEST_SUITE_END();

}  // namespace
}  // namespace uffd::test
