// The errno policy, against the real kernel.
#include <fstream>

#include "support.hpp"

namespace uffd::test {
namespace {

// Reserves pages of the default hugetlb pool, and gives them back.
class HugePages {
 public:
  explicit HugePages(uint64_t pages) {
    before_ = read();
    write(before_ + pages);
    reserved_ = hugetlb_page_size() != 0 && read() >= before_ + pages;
  }
  ~HugePages() { write(before_); }
  HugePages(const HugePages&) = delete;
  HugePages& operator=(const HugePages&) = delete;
  bool reserved() const { return reserved_; }

 private:
  static constexpr const char* kPath = "/proc/sys/vm/nr_hugepages";
  static uint64_t read() {
    uint64_t pages = 0;
    std::ifstream(kPath) >> pages;
    return pages;
  }
  static void write(uint64_t pages) { std::ofstream(kPath) << pages; }
  uint64_t before_ = 0;
  bool reserved_ = false;
};

}  // namespace

TEST_SUITE("installer") {
  TEST_CASE("a run is installed, marked and counted") {
    const Memory memory(100);
    HandTarget hand(memory);
    CHECK(hand.installer.install(hand.region(), 10, 90) == Outcome::done);
    CHECK(hand.target.residency().missing() == 20);
    CHECK(hand.count(Count::pages) == 80);
    CHECK(hand.count(Count::bytes) == 80 * page());
    CHECK(hand.count(Count::copies) == 1);
    for (uint64_t i = 10; i < 90; ++i) REQUIRE(memory.right(i));
  }

  TEST_CASE("zeros come by ZEROPAGE") {
    const Memory memory(8);
    HandTarget hand(memory, std::make_shared<ZeroSource>());
    CHECK(hand.installer.install(hand.region(), 0, 8) == Outcome::done);
    CHECK(hand.count(Count::zeropages) == 1);
    CHECK(hand.count(Count::copies) == 0);
    CHECK(memory.zero(5));
  }

  // COPY wakes only on success. The sleeper's page is installed by another without a wake; who then
  // meets EEXIST must wake it, or it sleeps for ever.
  TEST_CASE("a page that is there already is marked, and its sleeper is woken") {
    const Memory memory(8);
    HandTarget hand(memory);
    Toucher toucher(memory.at(3));
    until([&] { return sleepers(hand.target.uffd()) == 1; });
    REQUIRE(hand.target.uffd()
                .copy(memory.at(3), memory.image.address() + 3 * page(), page(),
                      UFFDIO_COPY_MODE_DONTWAKE)
                .bytes == page());
    CHECK(!toucher.done());
    SUBCASE("met in the middle of a run") {
      CHECK(hand.installer.install(hand.region(), 0, 8) == Outcome::done);
      CHECK(hand.count(Count::pages) == 7);
      CHECK(hand.target.residency().missing() == 0);
    }
    SUBCASE("met alone") {
      CHECK(hand.installer.install(hand.region(), 3, 4) == Outcome::done);
      CHECK(hand.count(Count::pages) == 0);
      CHECK(hand.target.residency().missing() == 7);
    }
    toucher.join();
    CHECK(hand.count(Count::eexist) == 1);
    CHECK(hand.target.residency().resident(3));
    CHECK(memory.right(3));
  }

  TEST_CASE("the last page of a run may be there already, and all of it") {
    const Memory memory(6);
    HandTarget hand(memory);
    CHECK(hand.installer.install(hand.region(), 4, 6) == Outcome::done);
    CHECK(hand.installer.install(hand.region(), 0, 6) == Outcome::done);
    CHECK(hand.count(Count::pages) == 6);
    CHECK(hand.count(Count::eexist) == 2);
    CHECK(hand.installer.install(hand.region(), 0, 6) == Outcome::done);
    CHECK(hand.count(Count::pages) == 6);
    CHECK(hand.count(Count::eexist) == 8);
    CHECK(memory.all_right());
  }

  TEST_CASE("a range that is no longer registered is settled, and its sleepers are woken") {
    const Memory memory(8);
    HandTarget hand(memory);
    // The last two stay registered: a thread sleeps there.
    REQUIRE(hand.target.uffd().unregister(memory.at(0), 6 * page()) == 0);
    Toucher toucher(memory.at(7));
    until([&] { return sleepers(hand.target.uffd()) == 1; });
    CHECK(hand.installer.install(hand.region(), 0, 8) == Outcome::done);
    toucher.join();
    CHECK(hand.count(Count::enoent) == 6);
    CHECK(hand.count(Count::pages) == 2);
    CHECK(hand.target.residency().missing() == 0);
    CHECK(memory.zero(0));
    CHECK(memory.right(7));
  }

  TEST_CASE("memory that was unmapped is settled") {
    Memory memory(8);
    HandTarget hand(memory);
    memory.memory.unmap();
    CHECK(hand.installer.install(hand.region(), 0, 8) == Outcome::done);
    CHECK(hand.count(Count::enoent) == 8);
    CHECK(hand.target.residency().missing() == 0);
  }

  // COPY needs its whole range in one VMA; a target may split its memory by any mprotect or
  // madvise.
  TEST_CASE("a run across VMAs is divided") {
    const Memory memory(64);
    HandTarget hand(memory);
    REQUIRE(sys::madvise(memory.at(21), 10 * page(), MADV_DONTDUMP) == 0);
    REQUIRE(hand.target.uffd().copy(memory.at(0), memory.image.address(), 64 * page(), 0).error ==
            -ENOENT);
    CHECK(hand.installer.install(hand.region(), 0, 64) == Outcome::done);
    CHECK(hand.count(Count::pages) == 64);
    CHECK(hand.count(Count::enoent) == 0);
    CHECK(memory.all_right());
  }

  TEST_CASE("a page that the target dropped reads as zeros") {
    const Memory memory(2);
    HandTarget hand(memory);
    REQUIRE(hand.installer.install(hand.region(), 0, 2) == Outcome::done);
    REQUIRE(sys::madvise(memory.at(1), page(), MADV_DONTNEED) == 0);
    Toucher toucher(memory.at(1));
    until([&] { return sleepers(hand.target.uffd()) == 1; });
    CHECK(hand.installer.install_dropped(hand.region(), 1) == Outcome::done);
    CHECK(toucher.join() == 0);
    CHECK(hand.count(Count::dropped) == 1);
    // Another was faster.
    CHECK(hand.installer.install_dropped(hand.region(), 1) == Outcome::done);
    CHECK(hand.count(Count::dropped) == 1);
    CHECK(hand.count(Count::eexist) == 1);
    CHECK(memory.zero(1));
    CHECK(memory.right(0));
  }

  TEST_CASE("what is missing is poisoned, and what is there is left alone") {
    if (!kernel_poisons()) return;
    const Memory memory(8);
    HandTarget hand(memory);
    REQUIRE(hand.installer.install(hand.region(), 2, 4) == Outcome::done);
    CHECK(hand.installer.poison(hand.region(), 0, 8, Cause::asked) == Outcome::done);
    CHECK(hand.target.residency().missing() == 0);
    CHECK(hand.count(Count::poisoned) == 6);
    const auto poisoned = hand.target.poisoned();
    REQUIRE(poisoned.size() == 2);
    CHECK(poisoned[0].start == memory.at(0));
    CHECK(poisoned[0].length == 2 * page());
    CHECK(poisoned[1].start == memory.at(4));
    CHECK(poisoned[1].length == 4 * page());
    CHECK(memory.right(2));
    CHECK(!readable(memory.at(0)));
    hand.target.uffd().close();
    CHECK(!readable(memory.at(7)));  // the marker survives
    CHECK(readable(memory.at(3)));
  }

  TEST_CASE("a page whose source cannot be read is poisoned, never zero") {
    if (!kernel_poisons()) return;
    const Memory memory(6);
    REQUIRE(::mprotect(reinterpret_cast<void*>(memory.image.address() + 2 * page()), 2 * page(),
                       PROT_NONE) == 0);
    HandTarget hand(memory);
    CHECK(hand.installer.install(hand.region(), 0, 6) == Outcome::done);
    CHECK(hand.count(Count::pages) == 4);
    CHECK(hand.count(Count::poisoned) == 2);
    CHECK(hand.target.residency().missing() == 0);
    const auto poisoned = hand.target.poisoned();
    REQUIRE(poisoned.size() == 1);
    CHECK(poisoned[0].start == memory.at(2));
    CHECK(poisoned[0].length == 2 * page());
    CHECK(!readable(memory.at(2)));
    CHECK(memory.right(1));
    CHECK(memory.right(5));
  }

  TEST_CASE("a stray page is poisoned; one that is not there any more is woken") {
    if (!kernel_poisons()) return;
    const Memory memory(2);
    HandTarget hand(memory);
    const Memory stray(3);
    uint64_t ioctls = 0;
    REQUIRE(hand.target.uffd().register_range(stray.at(0), 3 * page(), UFFDIO_REGISTER_MODE_MISSING,
                                              &ioctls) == 0);
    CHECK(hand.installer.install_stray(stray.at(1) + 17) == Outcome::done);
    CHECK(!readable(stray.at(1)));
    CHECK(hand.target.poisoned().size() == 1);
    CHECK(hand.installer.install_stray(stray.at(1)) == Outcome::done);             // EEXIST
    CHECK(hand.installer.install_stray(memory.image.address()) == Outcome::done);  // ENOENT
    CHECK(hand.count(Count::poisoned) == 1);
  }

  TEST_CASE("hugetlb pages") {
    const HugePages pool(3);
    if (!pool.reserved()) {
      MESSAGE("skipped: no hugetlb pages can be reserved (sysctl vm.nr_hugepages)");
      return;
    }
    const uint64_t huge = hugetlb_page_size();
    const Memory memory(3, 1, MemoryKind::hugetlb, huge);
    {
      HandTarget hand(memory);
      CHECK(hand.installer.install(hand.region(), 0, 2) == Outcome::done);
      CHECK(hand.count(Count::pages) == 2);
      CHECK(memory.right(0));
      CHECK(memory.right(1));
      REQUIRE(sys::madvise(memory.at(1), huge, MADV_DONTNEED) == 0);
      CHECK(hand.installer.install_dropped(hand.region(), 1) == Outcome::done);
      CHECK(memory.zero(1));
    }
    REQUIRE(sys::madvise(memory.at(0), 3 * huge, MADV_DONTNEED) == 0);
    HandTarget zeros(memory, std::make_shared<ZeroSource>());
    CHECK(zeros.installer.install(zeros.region(), 0, 3) == Outcome::done);
    CHECK(zeros.count(Count::pages) == 3);
    CHECK(memory.zero(2));

    const Userfaultfd uffd = open_uffd();
    const RegionTable base(
        {Region({memory.at(0), huge}, std::make_shared<ZeroSource>(), 0, page())});
    zeros.target.uffd().close();
    CHECK_THROWS_WITH_AS(register_regions(uffd, base), doctest::Contains("hugetlb memory"),
                         std::invalid_argument);
  }
}

}  // namespace uffd::test
