#include "engine/linux/blank.hpp"
#include "engine/serve/served/local_memory.hpp"
#include "support.hpp"

namespace uffd::test {
namespace {

RegionTable table_of(const Memory& memory, SourcePtr source) {
  return RegionTable({memory.region(std::move(source))});
}

}  // namespace

TEST_SUITE("target") {
  TEST_CASE("poisoned ranges are sorted and joined") {
    const Memory memory(16);
    Target target(table_of(memory, nullptr), 0);
    const auto add = [&](uint64_t first, uint64_t pages) {
      target.add_poisoned({memory.at(first), pages * page()});
    };
    const auto expect = [&](std::vector<std::pair<uint64_t, uint64_t>> expected) {
      const auto ranges = target.poisoned();
      REQUIRE(ranges.size() == expected.size());
      for (size_t i = 0; i < ranges.size(); ++i) {
        CHECK(ranges[i].start == memory.at(expected[i].first));
        CHECK(ranges[i].length == expected[i].second * page());
      }
    };
    expect({});
    add(8, 1);
    add(2, 1);
    expect({{2, 1}, {8, 1}});
    add(3, 1);
    expect({{2, 2}, {8, 1}});
    add(7, 1);
    expect({{2, 2}, {7, 2}});
    add(7, 1);
    expect({{2, 2}, {7, 2}});
    add(4, 3);
    expect({{2, 7}});
    add(0, 16);
    expect({{0, 16}});
  }

  TEST_CASE("blank memory is zeros, or cannot be read") {
    const auto* zeros = reinterpret_cast<const char*>(zeros_address());
    CHECK(zeros[0] == 0);
    CHECK(zeros[kBlankLength - 1] == 0);
    CHECK(!readable(unreadable_address()));
  }

  TEST_CASE("registering refuses what is registered elsewhere or not mapped, and takes all back") {
    const Memory first(2), second(2);
    const Userfaultfd owner = open_uffd();
    uint64_t ioctls = 0;
    REQUIRE(owner.register_range(second.at(0), page(), UFFDIO_REGISTER_MODE_MISSING, &ioctls) == 0);
    const Userfaultfd uffd = open_uffd();
    const RegionTable both({first.region(), second.region()});
    CHECK_THROWS_WITH_AS(register_regions(uffd, both), doctest::Contains("another userfaultfd"),
                         SystemError);
    // Neither is left registered: another may take both now.
    REQUIRE(owner.unregister(second.at(0), page()) == 0);
    const Userfaultfd other = open_uffd();
    register_regions(other, both);

    Memory unmapped(2);
    const Region gone = unmapped.region();
    unmapped.memory.unmap();
    CHECK_THROWS_WITH_AS(register_regions(uffd, RegionTable({gone})),
                         doctest::Contains("not mapped"), SystemError);
  }

  TEST_CASE("a page size that the memory does not have is refused and unregistered") {
    const uint64_t huge = 2 << 20;
    const Mapping room(2 * huge, MemoryKind::anonymous, false);
    const uint64_t start = (room.address() + huge - 1) / huge * huge;
    const RegionTable table({Region({start, huge}, std::make_shared<ZeroSource>(), 0, huge)});
    const Userfaultfd uffd = open_uffd();
    CHECK_THROWS_WITH_AS(register_regions(uffd, table), doctest::Contains("page_size is 2097152"),
                         std::invalid_argument);
    uint64_t ioctls = 0;
    const Userfaultfd other = open_uffd();
    CHECK(other.register_range(start, huge, UFFDIO_REGISTER_MODE_MISSING, &ioctls) == 0);
  }

  TEST_CASE("unregister and wake frees a sleeper") {
    const Memory memory(1);
    const HandTarget hand(memory);
    Toucher toucher(memory.at(0));
    until([&] { return sleepers(hand.target.uffd()) == 1; });
    CHECK(unregister_and_wake(hand.target.uffd(), {memory.at(0), page()}) == 0);
    CHECK(toucher.join() == 0);
    CHECK(unregister_and_wake(hand.target.uffd(), {memory.at(0) + 1, page()}) == -EINVAL);
  }

  // UNREGISTER itself wakes nobody who waits for a write-protect fault, so here the WAKE is all.
  TEST_CASE("unregister and wake frees whom UNREGISTER leaves asleep") {
    if (!(offered_features() & UFFD_FEATURE_PAGEFAULT_FLAG_WP)) {
      MESSAGE("skipped: this kernel has no write-protect faults");
      return;
    }
    const Mapping memory(page(), MemoryKind::anonymous, false);
    auto* word = reinterpret_cast<std::atomic<uint64_t>*>(memory.address());
    *word = 1;
    const Userfaultfd uffd = open_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
    uint64_t ioctls = 0;
    REQUIRE(uffd.register_range(memory.address(), page(), UFFDIO_REGISTER_MODE_WP, &ioctls) == 0);
    REQUIRE(uffd.writeprotect(memory.address(), page(), UFFDIO_WRITEPROTECT_MODE_WP) == 0);
    std::thread writer([&] { *word = 2; });
    until([&] { return sleepers(uffd) == 1; });
    CHECK(unregister_and_wake(uffd, {memory.address(), page()}) == 0);
    writer.join();
    CHECK(*word == 2);
  }

  TEST_CASE("a source in managed memory is refused, both ways, and only while it is managed") {
    const Memory managed(4), other(4);
    const auto source_in = [](const Memory& memory, uint64_t from, uint64_t bytes) {
      return std::make_shared<MemorySource>(
          std::span(reinterpret_cast<const std::byte*>(memory.at(0) + from), bytes), nullptr);
    };
    // Its own region.
    CHECK_THROWS_WITH_AS(LocalMemory(table_of(managed, source_in(managed, 0, 4 * page())), true),
                         doctest::Contains("lies in managed memory"), std::invalid_argument);
    {
      const RegionTable plain = table_of(managed, nullptr);
      const LocalMemory noted(plain, true);
      // A source in a region of another target, by one byte.
      const RegionTable reads({Region({other.at(0), page()},
                                      source_in(managed, 4 * page() - 1, page() + 1), 0, page())});
      CHECK_THROWS_AS(LocalMemory(reads, true), std::invalid_argument);
      // A region where another's source lies.
      const RegionTable covers(
          {Region({managed.image.address(), page()}, std::make_shared<ZeroSource>(), 0, page())});
      CHECK_THROWS_AS(LocalMemory(covers, true), std::invalid_argument);
      // The same addresses in another process are other memory.
      LocalMemory elsewhere(covers, false);
    }
    const LocalMemory now(table_of(other, source_in(managed, 0, 4 * page())), true);
    LocalMemory moved;
    {
      LocalMemory inner(table_of(managed, std::make_shared<ZeroSource>()), false);
      moved = std::move(inner);
    }
    moved.forget();
    moved.forget();
  }

  // Managed memory is not inherited, so its addresses are free there: other memory comes to lie at
  // them.
  TEST_CASE("a fork child knows nothing of its parent's managed memory") {
    const Memory managed(4), other(4);
    const LocalMemory noted(table_of(managed, nullptr), true);
    const RegionTable reads(
        {Region({other.at(0), page()},
                std::make_shared<MemorySource>(
                    std::span(reinterpret_cast<const std::byte*>(managed.at(0)), page()), nullptr),
                0, page())});
    CHECK_THROWS_AS(LocalMemory(reads, true), std::invalid_argument);
    CHECK(in_child([&] {
            try {
              const LocalMemory in_child(reads, true);
              return 0;
            } catch (const std::invalid_argument&) {
              return 1;
            }
          }) == 0);
    CHECK_THROWS_AS(LocalMemory(reads, true), std::invalid_argument);
  }
}

}  // namespace uffd::test
